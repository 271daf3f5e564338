/*
 * Core: a Python object that owns one reference to an mb_buffer and shows its bytes; and lists of them. Pools and
 * lists come as addresses that the Python side keeps alive.
 */
#include "objects.h"

typedef struct core_object {
  PyObject_HEAD mb_buffer *buffer;
  void *place; /* writable bytes; NULL: a read-only view */
} core_object;

static PyTypeObject *core_type;

void mb_set_core_type(PyTypeObject *type) { core_type = type; }

PyObject *mb_core_over(mb_buffer *buffer, void *place) {
  if (buffer == NULL) return mb_no_memory();
  core_object *self = PyObject_New(core_object, core_type);
  if (self == NULL) {
    mb_buffer_unref(buffer);
    return NULL;
  }
  self->buffer = buffer;
  self->place = place;
  return (PyObject *)self;
}

static mb_buffer *buffer_of(PyObject *item) {
  if (Py_IS_TYPE(item, core_type)) return ((core_object *)item)->buffer;
  PyErr_Format(PyExc_TypeError, "expected Core, not %R", (PyObject *)Py_TYPE(item));
  return NULL;
}

static PyObject *core_refuse(PyTypeObject *type, PyObject *arguments, PyObject *names) {
  (void)type, (void)arguments, (void)names;
  PyErr_SetString(PyExc_TypeError, "Core objects come from the functions of this module");
  return NULL;
}

static void core_dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  core_object *self = (core_object *)object;
  if (mb_buffer_size(self->buffer) < UNLOCKED_SIZE) {
    mb_buffer_unref(self->buffer);
  } else { /* may unmap memory */
    mb_buffer *buffer = self->buffer;
    Py_BEGIN_ALLOW_THREADS mb_buffer_unref(buffer);
    Py_END_ALLOW_THREADS
  }
  PyObject_Free(object);
  Py_DECREF(type);
}

static int core_getbuffer(PyObject *object, Py_buffer *view, int flags) {
  core_object *self = (core_object *)object;
  void *bytes = self->place != NULL ? self->place : (void *)mb_buffer_data(self->buffer);
  if (bytes == NULL) bytes = "";
  return PyBuffer_FillInfo(view, object, bytes, (Py_ssize_t)mb_buffer_size(self->buffer), self->place == NULL, flags);
}

static PyObject *core_size(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromUnsignedLongLong(mb_buffer_size(((core_object *)object)->buffer));
}

static PyObject *core_kind(PyObject *object, void *unused) {
  (void)unused;
  return PyLong_FromLong(mb_buffer_kind(((core_object *)object)->buffer));
}

static PyObject *core_error(PyObject *object, void *unused) {
  (void)unused;
  const char *code, *message;
  if (!mb_buffer_error(((core_object *)object)->buffer, &code, &message)) Py_RETURN_NONE;
  PyObject *first = PyUnicode_DecodeUTF8(code, (Py_ssize_t)strlen(code), "replace");
  PyObject *second = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "replace");
  if (first != NULL && second != NULL) return Py_BuildValue("NN", first, second);
  Py_XDECREF(first);
  Py_XDECREF(second);
  return NULL;
}

static PyObject *core_meta(PyObject *object, void *unused) {
  (void)unused;
  uint64_t size;
  const uint8_t *meta = mb_buffer_meta(((core_object *)object)->buffer, &size);
  return PyBytes_FromStringAndSize((const char *)meta, (Py_ssize_t)size);
}

static PyGetSetDef core_attributes[] = {
    {"size", core_size, NULL, "Bytes of the data.", NULL},
    {"kind", core_kind, NULL, "RAW, IMAGE or STRING.", NULL},
    {"error", core_error, NULL, "(code, message), or None.", NULL},
    {"meta", core_meta, NULL, "The meta block, as bytes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *core_writable(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_buffer *buffer = ((core_object *)object)->buffer;
  void *place = mb_buffer_writable(buffer);
  if (place == NULL) Py_RETURN_NONE;
  return mb_core_over(mb_buffer_ref(buffer), place);
}

static PyObject *core_scribble(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_buffer *buffer = ((core_object *)object)->buffer;
  void *place = mb_buffer_scribble(buffer);
  if (place == NULL) Py_RETURN_NONE;
  return mb_core_over(mb_buffer_ref(buffer), place);
}

static PyObject *set_up(PyObject *core, int kind, const Py_buffer *meta) {
  if (core == NULL) return NULL;
  mb_buffer *buffer = ((core_object *)core)->buffer;
  mb_error error = {0};
  int32_t status = mb_buffer_set_kind(buffer, kind);
  if (status == 0) status = mb_buffer_set_meta(buffer, meta->buf, (uint64_t)meta->len);
  if (status == 0) return core;
  Py_DECREF(core);
  if (status == -MB_NOMEM) return mb_no_memory();
  if (status == -MB_RANGE && meta->len > MB_META_MAX_SIZE) {
    PyErr_Format(PyExc_ValueError, "the meta of a buffer is too large: %zd bytes, at most %d", meta->len,
                 MB_META_MAX_SIZE);
    return NULL;
  }
  snprintf(error.message, sizeof error.message, "damaged kind or meta of a buffer");
  return mb_fail(&error, status);
}

static PyObject *core_share(PyObject *object, PyObject *arguments) {
  int kind;
  Py_buffer meta;
  if (!PyArg_ParseTuple(arguments, "iy*", &kind, &meta)) return NULL;
  PyObject *made = set_up(mb_core_over(mb_buffer_share(((core_object *)object)->buffer), NULL), kind, &meta);
  PyBuffer_Release(&meta);
  return made;
}

static PyObject *core_text(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_buffer *buffer = ((core_object *)object)->buffer;
  return PyUnicode_DecodeUTF8(mb_buffer_data(buffer), (Py_ssize_t)mb_buffer_size(buffer), NULL);
}

static PyObject *core_seal(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_buffer_seal(((core_object *)object)->buffer);
  Py_RETURN_NONE;
}

static PyObject *core_new_reference(PyObject *object, PyObject *unused) {
  (void)unused;
  return PyLong_FromVoidPtr(mb_buffer_ref(((core_object *)object)->buffer));
}

static PyMethodDef core_methods[] = {
    {"writable", core_writable, METH_NOARGS, "A writable view, or None where somebody else may see the data."},
    {"scribble", core_scribble, METH_NOARGS, "A view into a private copy-on-write mapping, or None."},
    {"share", core_share, METH_VARARGS, "share(kind, meta): the same data with another kind and meta, unsealed."},
    {"text", core_text, METH_NOARGS, "The data as UTF-8 text. Raises UnicodeDecodeError."},
    {"seal", core_seal, METH_NOARGS, "Makes it read-only for everybody."},
    {"new_reference", core_new_reference, METH_NOARGS, "The address of the mb_buffer, with a reference that is yours."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "One buffer of the core; offers its bytes through the buffer protocol."},
    {Py_tp_new, core_refuse},
    {Py_tp_dealloc, core_dealloc},
    {Py_bf_getbuffer, core_getbuffer},
    {Py_tp_getset, core_attributes},
    {Py_tp_methods, core_methods},
    {0, NULL},
};

PyType_Spec mb_core_spec = {
    .name = "modelbox._core._objects.Core",
    .basicsize = sizeof(core_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = core_slots,
};

static PyObject *make_core(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *address, *made = NULL;
  Py_buffer data, meta;
  int kind;
  if (!PyArg_ParseTuple(arguments, "Oy*iy*", &address, &data, &kind, &meta)) return NULL;
  mb_pool *pool = mb_pointer(address);
  if (pool != NULL) {
    mb_error error = {0};
    mb_buffer *buffer;
    if (data.len < UNLOCKED_SIZE) {
      buffer = mb_buffer_from(pool, data.buf, (uint64_t)data.len, &error);
    } else {
      Py_BEGIN_ALLOW_THREADS buffer = mb_buffer_from(pool, data.buf, (uint64_t)data.len, &error);
      Py_END_ALLOW_THREADS
    }
    made = buffer != NULL ? set_up(mb_core_over(buffer, NULL), kind, &meta) : mb_fail(&error, 0);
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&meta);
  return made;
}

static PyObject *make_error(PyObject *module, PyObject *arguments) {
  (void)module;
  const char *code, *message;
  int kind;
  Py_buffer meta;
  if (!PyArg_ParseTuple(arguments, "yyiy*", &code, &message, &kind, &meta)) return NULL;
  mb_buffer *sealed = mb_buffer_new_error(code, message);
  mb_buffer *buffer = sealed != NULL ? mb_buffer_share(sealed) : NULL;
  mb_buffer_unref(sealed);
  PyObject *made = set_up(mb_core_over(buffer, NULL), kind, &meta);
  PyBuffer_Release(&meta);
  return made;
}

static PyObject *make_empty(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *address;
  unsigned long long size;
  if (!PyArg_ParseTuple(arguments, "OK", &address, &size)) return NULL;
  mb_pool *pool = mb_pointer(address);
  if (pool == NULL) return NULL;
  mb_error error = {0};
  mb_buffer *buffer = mb_buffer_new(pool, size, &error);
  return buffer != NULL ? mb_core_over(buffer, NULL) : mb_fail(&error, 0);
}

static PyObject *adopt(PyObject *module, PyObject *address) {
  (void)module;
  mb_buffer *buffer = mb_pointer(address);
  return buffer != NULL ? mb_core_over(buffer, NULL) : NULL;
}

PyObject *mb_cores_of(const mb_list *list) {
  PyObject *made = PyList_New((Py_ssize_t)list->count);
  for (uint32_t at = 0; made != NULL && at < list->count; at++) {
    PyObject *item = list->items[at] == NULL ? Py_NewRef(Py_None) : mb_core_over(mb_buffer_ref(list->items[at]), NULL);
    if (item == NULL) {
      Py_CLEAR(made);
    } else {
      PyList_SET_ITEM(made, (Py_ssize_t)at, item);
    }
  }
  return made;
}

static PyObject *of_list(PyObject *module, PyObject *address) {
  (void)module;
  const mb_list *list = mb_pointer(address);
  return list != NULL ? mb_cores_of(list) : NULL;
}

bool mb_push_all(mb_list *list, PyObject *cores, bool seal) {
  if (!PyList_Check(cores)) {
    PyErr_SetString(PyExc_TypeError, "expected a list of Core");
    return false;
  }
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(cores); at++) {
    mb_buffer *buffer = buffer_of(PyList_GET_ITEM(cores, at));
    if (buffer == NULL) return false;
    if (seal) mb_buffer_seal(buffer);
    if (mb_list_push(list, mb_buffer_ref(buffer)) != 0) {
      mb_no_memory();
      return false;
    }
  }
  return true;
}

static PyObject *to_list(PyObject *module, PyObject *cores) {
  (void)module;
  mb_list *list = mb_list_new(PyList_Check(cores) ? (uint32_t)PyList_GET_SIZE(cores) : 0);
  if (list == NULL) return mb_no_memory();
  PyObject *made = mb_push_all(list, cores, false) ? PyLong_FromVoidPtr(list) : NULL;
  if (made == NULL) mb_list_free(list);
  return made;
}

static PyObject *pack_list(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *address, *made = NULL;
  Py_buffer data, meta;
  int kind;
  if (!PyArg_ParseTuple(arguments, "Oy*iy*", &address, &data, &kind, &meta)) return NULL;
  mb_pool *pool = mb_pointer(address);
  mb_list *list = pool != NULL ? mb_list_new(1) : NULL;
  if (pool != NULL && list == NULL) mb_no_memory();
  if (list != NULL) {
    mb_error error = {0};
    mb_buffer *buffer;
    if (data.len < UNLOCKED_SIZE) {
      buffer = mb_buffer_pack(pool, data.buf, (uint64_t)data.len, kind, meta.buf, (uint64_t)meta.len, &error);
    } else {
      Py_BEGIN_ALLOW_THREADS buffer =
          mb_buffer_pack(pool, data.buf, (uint64_t)data.len, kind, meta.buf, (uint64_t)meta.len, &error);
      Py_END_ALLOW_THREADS
    }
    if (buffer == NULL) {
      mb_fail(&error, 0);
    } else if (mb_list_push(list, buffer) != 0) {
      mb_no_memory();
    } else {
      made = PyLong_FromVoidPtr(list);
    }
    if (made == NULL) mb_list_free(list);
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&meta);
  return made;
}

PyMethodDef mb_core_functions[] = {
    {"make_core", make_core, METH_VARARGS, "make_core(pool, data, kind, meta): a copy of data, unsealed."},
    {"make_error", make_error, METH_VARARGS, "make_error(code, message, kind, meta): a buffer that carries an error."},
    {"make_empty", make_empty, METH_VARARGS, "make_empty(pool, size): unsealed, its bytes not set."},
    {"adopt", adopt, METH_O, "adopt(address): takes over a reference to an mb_buffer."},
    {"of_list", of_list, METH_O, "of_list(address): the buffers of an mb_list."},
    {"to_list", to_list, METH_O, "to_list(cores): the address of a new mb_list, which is yours."},
    {"pack_list", pack_list, METH_VARARGS,
     "pack_list(pool, data, kind, meta): the address of a new mb_list, which is yours, of one sealed buffer."},
    {NULL, NULL, 0, NULL},
};
