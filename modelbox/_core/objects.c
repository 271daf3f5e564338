/*
 * The core's hot paths as Python objects, without cffi's costs: Core owns one reference to an mb_buffer and
 * shows its bytes, Writer and the read functions make and split messages. Lives in the same library as the
 * cffi module (see __init__.py). Pools, peers and lists come as addresses that the Python side keeps alive.
 *
 * Exporter: a base class through which a Python class offers the buffer protocol. PEP 688 lets Python code
 * define __buffer__ from 3.12 on; this type does the same on earlier versions.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#include "blocks.h"
#include "core.h"
#include "limited.h"

#define UNLOCKED_SIZE (128u << 10) /* copies and releases from this size on let other threads run */

static PyObject *raiser; /* raiser(status, text) raises the exception that fits */

static PyObject *fail(const mb_error *error, int32_t status) {
  int32_t code = error->status != 0 ? error->status : status < 0 ? -status : status;
  PyObject *none = PyObject_CallFunction(raiser, "is", (int)code, error->message);
  Py_XDECREF(none);
  if (none != NULL) PyErr_SetString(PyExc_SystemError, "an error of the core was not raised");
  return NULL;
}

static PyObject *no_memory(void) {
  mb_error error = {MB_NOMEM, "out of memory"};
  return fail(&error, 0);
}

static void *pointer(PyObject *address) {
  void *made = PyLong_AsVoidPtr(address);
  if (made == NULL && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an address must not be 0");
  return made;
}

/* ---- Exporter --------------------------------------------------------------------------------------------- */

static int exporter_getbuffer(PyObject *self, Py_buffer *view, int flags) {
  PyObject *inner = PyObject_CallMethod(self, "__buffer__", "i", flags);
  if (inner == NULL) {
    view->obj = NULL;
    return -1;
  }
  int status = PyObject_GetBuffer(inner, view, flags); /* view->obj is `inner`, which keeps the memory alive */
  Py_DECREF(inner);
  return status;
}

static PyType_Slot exporter_slots[] = {
    {Py_tp_doc, "Base class that turns __buffer__(flags) -> memoryview into the buffer protocol."},
    {Py_bf_getbuffer, exporter_getbuffer},
    {Py_tp_new, PyType_GenericNew},
    {0, NULL},
};

static PyType_Spec exporter_spec = {
    .name = "modelbox._core._objects.Exporter",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = exporter_slots,
};

/* ---- Core ------------------------------------------------------------------------------------------------- */

typedef struct core_object {
  PyObject_HEAD mb_buffer *buffer;
  void *place; /* writable bytes; NULL: a read-only view */
} core_object;

static PyTypeObject *core_type;

/* Takes over the reference; NULL with an exception when there is none. */
static PyObject *core_over(mb_buffer *buffer, void *place) {
  if (buffer == NULL) return no_memory();
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
  return core_over(mb_buffer_ref(buffer), place);
}

static PyObject *core_scribble(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_buffer *buffer = ((core_object *)object)->buffer;
  void *place = mb_buffer_scribble(buffer);
  if (place == NULL) Py_RETURN_NONE;
  return core_over(mb_buffer_ref(buffer), place);
}

static PyObject *set_up(PyObject *core, int kind, const Py_buffer *meta) {
  if (core == NULL) return NULL;
  mb_buffer *buffer = ((core_object *)core)->buffer;
  mb_error error = {0};
  int32_t status = mb_buffer_set_kind(buffer, kind);
  if (status == 0) status = mb_buffer_set_meta(buffer, meta->buf, (uint64_t)meta->len);
  if (status == 0) return core;
  Py_DECREF(core);
  if (status == -MB_NOMEM) return no_memory();
  if (status == -MB_RANGE && meta->len > MB_META_MAX_SIZE) {
    PyErr_Format(PyExc_ValueError, "the meta of a buffer is too large: %zd bytes, at most %d", meta->len,
                 MB_META_MAX_SIZE);
    return NULL;
  }
  snprintf(error.message, sizeof error.message, "damaged kind or meta of a buffer");
  return fail(&error, status);
}

static PyObject *core_share(PyObject *object, PyObject *arguments) {
  int kind;
  Py_buffer meta;
  if (!PyArg_ParseTuple(arguments, "iy*", &kind, &meta)) return NULL;
  PyObject *made = set_up(core_over(mb_buffer_share(((core_object *)object)->buffer), NULL), kind, &meta);
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

static PyType_Spec core_spec = {
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
  mb_pool *pool = pointer(address);
  if (pool != NULL) {
    mb_error error = {0};
    mb_buffer *buffer;
    if (data.len < UNLOCKED_SIZE) {
      buffer = mb_buffer_from(pool, data.buf, (uint64_t)data.len, &error);
    } else {
      Py_BEGIN_ALLOW_THREADS buffer = mb_buffer_from(pool, data.buf, (uint64_t)data.len, &error);
      Py_END_ALLOW_THREADS
    }
    made = buffer != NULL ? set_up(core_over(buffer, NULL), kind, &meta) : fail(&error, 0);
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
  PyObject *made = set_up(core_over(buffer, NULL), kind, &meta);
  PyBuffer_Release(&meta);
  return made;
}

static PyObject *make_empty(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *address;
  unsigned long long size;
  if (!PyArg_ParseTuple(arguments, "OK", &address, &size)) return NULL;
  mb_pool *pool = pointer(address);
  if (pool == NULL) return NULL;
  mb_error error = {0};
  mb_buffer *buffer = mb_buffer_new(pool, size, &error);
  return buffer != NULL ? core_over(buffer, NULL) : fail(&error, 0);
}

static PyObject *adopt(PyObject *module, PyObject *address) {
  (void)module;
  mb_buffer *buffer = pointer(address);
  return buffer != NULL ? core_over(buffer, NULL) : NULL;
}

/* The buffers of a list as Core objects; None for a placeholder. */
static PyObject *cores_of(const mb_list *list) {
  PyObject *made = PyList_New((Py_ssize_t)list->count);
  for (uint32_t at = 0; made != NULL && at < list->count; at++) {
    PyObject *item = list->items[at] == NULL ? Py_NewRef(Py_None) : core_over(mb_buffer_ref(list->items[at]), NULL);
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
  const mb_list *list = pointer(address);
  return list != NULL ? cores_of(list) : NULL;
}

/* Appends Core objects to a list; false with an exception. */
static bool push_all(mb_list *list, PyObject *cores, bool seal) {
  if (!PyList_Check(cores)) {
    PyErr_SetString(PyExc_TypeError, "expected a list of Core");
    return false;
  }
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(cores); at++) {
    mb_buffer *buffer = buffer_of(PyList_GET_ITEM(cores, at));
    if (buffer == NULL) return false;
    if (seal) mb_buffer_seal(buffer);
    if (mb_list_push(list, mb_buffer_ref(buffer)) != 0) {
      no_memory();
      return false;
    }
  }
  return true;
}

static PyObject *to_list(PyObject *module, PyObject *cores) {
  (void)module;
  mb_list *list = mb_list_new(PyList_Check(cores) ? (uint32_t)PyList_GET_SIZE(cores) : 0);
  if (list == NULL) return no_memory();
  PyObject *made = push_all(list, cores, false) ? PyLong_FromVoidPtr(list) : NULL;
  if (made == NULL) mb_list_free(list);
  return made;
}

static PyObject *pack_list(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *address, *made = NULL;
  Py_buffer data, meta;
  int kind;
  if (!PyArg_ParseTuple(arguments, "Oy*iy*", &address, &data, &kind, &meta)) return NULL;
  mb_pool *pool = pointer(address);
  mb_list *list = pool != NULL ? mb_list_new(1) : NULL;
  if (pool != NULL && list == NULL) no_memory();
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
      fail(&error, 0);
    } else if (mb_list_push(list, buffer) != 0) {
      no_memory();
    } else {
      made = PyLong_FromVoidPtr(list);
    }
    if (made == NULL) mb_list_free(list);
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&meta);
  return made;
}

/* ---- Writer ------------------------------------------------------------------------------------------------ */

typedef struct writer_object {
  PyObject_HEAD mb_writer *writer;
  PyObject *owner; /* keeps the peer */
} writer_object;

static PyObject *writer_make(PyTypeObject *type, PyObject *arguments, PyObject *names) {
  PyObject *owner, *address;
  if (names != NULL && PyDict_GET_SIZE(names) > 0) {
    PyErr_SetString(PyExc_TypeError, "Writer(peer, address)");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "OO", &owner, &address)) return NULL;
  mb_peer *peer = pointer(address);
  if (peer == NULL) return NULL;
  writer_object *self = (writer_object *)PyType_GenericAlloc(type, 0);
  if (self == NULL) return NULL;
  self->owner = Py_NewRef(owner);
  self->writer = mb_writer_new(peer);
  if (self->writer == NULL) {
    Py_DECREF(self);
    return no_memory();
  }
  return (PyObject *)self;
}

static void writer_dealloc(PyObject *object) {
  writer_object *self = (writer_object *)object;
  mb_writer_free(self->writer);
  Py_XDECREF(self->owner);
  PyTypeObject *type = Py_TYPE(object);
  PyObject_Free(object);
  Py_DECREF(type);
}

static PyObject *writer_begin(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_writer_begin(((writer_object *)object)->writer);
  Py_RETURN_NONE;
}

static PyObject *writer_undo(PyObject *object, PyObject *unused) {
  (void)unused;
  mb_writer_undo(((writer_object *)object)->writer);
  Py_RETURN_NONE;
}

/* The stream meta of port `at`; empty where there is none. */
static bool meta_at(PyObject *metas, Py_ssize_t at, const uint8_t **meta, uint32_t *size) {
  *meta = NULL;
  *size = 0;
  if (metas == Py_None || at >= PyList_GET_SIZE(metas)) return true;
  PyObject *block = PyList_GET_ITEM(metas, at);
  if (!PyBytes_Check(block) || PyBytes_GET_SIZE(block) > UINT32_MAX) {
    PyErr_SetString(PyExc_TypeError, "stream meta must be bytes");
    return false;
  }
  *meta = (const uint8_t *)PyBytes_AS_STRING(block);
  *size = (uint32_t)PyBytes_GET_SIZE(block);
  return true;
}

/* Stream meta: a list of bytes, or None. */
static int metas_converter(PyObject *object, void *to) {
  if (object != Py_None && !PyList_Check(object)) {
    PyErr_SetString(PyExc_TypeError, "stream metas must be a list or None");
    return 0;
  }
  *(PyObject **)to = object;
  return 1;
}

static PyObject *writer_call(PyObject *object, PyObject *arguments) {
  mb_writer *writer = ((writer_object *)object)->writer;
  unsigned long long stream, session;
  unsigned int flags;
  const char *id;
  Py_ssize_t id_size;
  PyObject *lists, *metas;
  if (!PyArg_ParseTuple(arguments, "KKIs#O!O&", &stream, &session, &flags, &id, &id_size, &PyList_Type, &lists,
                        metas_converter, &metas)) {
    return NULL;
  }
  Py_ssize_t ports = PyList_GET_SIZE(lists);
  mb_call_head head = {.stream = stream, .session = session, .flags = flags, .ports = (uint32_t)ports};
  memcpy(head.session_id, id, (size_t)(id_size < MB_SESSION_ID ? id_size : MB_SESSION_ID));
  mb_error error = {0};
  int32_t status = mb_writer_call(writer, &head, &error);
  for (Py_ssize_t at = 0; status == 0 && at < ports; at++) {
    const uint8_t *meta;
    uint32_t meta_size;
    const mb_list *list = pointer(PyList_GET_ITEM(lists, at));
    if (list == NULL || !meta_at(metas, at, &meta, &meta_size)) return NULL;
    status = mb_writer_port(writer, list, meta, meta_size, &error);
  }
  if (status != 0) return fail(&error, status);
  Py_RETURN_NONE;
}

static PyObject *writer_result(PyObject *object, PyObject *arguments) {
  mb_writer *writer = ((writer_object *)object)->writer;
  unsigned int flags, status_code;
  const char *text;
  Py_ssize_t text_size;
  PyObject *ports, *metas;
  if (!PyArg_ParseTuple(arguments, "IIy#O!O&", &flags, &status_code, &text, &text_size, &PyList_Type, &ports,
                        metas_converter, &metas)) {
    return NULL;
  }
  Py_ssize_t count = PyList_GET_SIZE(ports);
  mb_result_head head = {flags, (uint32_t)count, status_code, (uint32_t)text_size};
  mb_error error = {0};
  int32_t status = mb_writer_result(writer, &head, text, &error);
  for (Py_ssize_t at = 0; status == 0 && at < count; at++) {
    const uint8_t *meta;
    uint32_t meta_size;
    if (!meta_at(metas, at, &meta, &meta_size)) return NULL;
    mb_list *list = mb_list_new(0);
    if (list == NULL) return no_memory();
    if (!push_all(list, PyList_GET_ITEM(ports, at), true)) {
      mb_list_free(list);
      return NULL;
    }
    status = mb_writer_port(writer, list, meta, meta_size, &error);
    mb_list_free(list);
  }
  if (status != 0) return fail(&error, status);
  Py_RETURN_NONE;
}

static PyObject *writer_finish(PyObject *object, PyObject *arguments) {
  mb_writer *writer = ((writer_object *)object)->writer;
  unsigned char kind;
  unsigned int sequence, count;
  unsigned long long limit, body_limit;
  PyObject *address;
  if (!PyArg_ParseTuple(arguments, "bIIOKK", &kind, &sequence, &count, &address, &limit, &body_limit)) return NULL;
  mb_pool *pool = pointer(address);
  if (pool == NULL) return NULL;
  mb_error error = {0};
  const uint8_t *message;
  uint64_t size;
  int32_t released = mb_writer_finish(writer, kind, sequence, count, pool, limit, body_limit, &message, &size, &error);
  if (released < 0) return fail(&error, released);
  return Py_BuildValue("y#i", (const char *)message, (Py_ssize_t)size, (int)released);
}

static PyMethodDef writer_methods[] = {
    {"begin", writer_begin, METH_NOARGS, "Begins a message."},
    {"undo", writer_undo, METH_NOARGS, "Takes back what an unsent message has lent and returned; begins anew."},
    {"call", writer_call, METH_VARARGS, "call(stream, session, flags, session id, list addresses, metas)"},
    {"result", writer_result, METH_VARARGS, "result(flags, status, text, lists of Core, which are sealed, metas)"},
    {"finish", writer_finish, METH_VARARGS,
     "finish(kind, sequence, count, pool, limit, body limit) -> (message, ids that go back)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, "Writer(peer, its address): makes messages of calls or results."},
    {Py_tp_new, writer_make},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "modelbox._core._objects.Writer",
    .basicsize = sizeof(writer_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = writer_slots,
};

/* ---- reading ----------------------------------------------------------------------------------------------- */

typedef struct message {
  mb_peer *peer;
  Py_buffer data;
  uint64_t at;
  unsigned int count, released;
} message;

static bool message_open(message *open, PyObject *arguments) {
  PyObject *address;
  unsigned long long at;
  if (!PyArg_ParseTuple(arguments, "Oy*KII", &address, &open->data, &at, &open->count, &open->released)) return false;
  open->at = at;
  open->peer = pointer(address);
  if (open->peer == NULL) PyBuffer_Release(&open->data);
  return open->peer != NULL;
}

/* One port: its list, or NULL with an exception; `metas` becomes a list when there is stream meta. */
static mb_list *read_port(message *open, uint32_t port, uint32_t ports, PyObject **metas) {
  mb_error error = {0};
  const uint8_t *meta;
  uint32_t meta_size;
  mb_list *list = mb_list_new(0);
  if (list == NULL) {
    no_memory();
    return NULL;
  }
  const uint8_t *bytes = open->data.buf;
  uint64_t size = (uint64_t)open->data.len;
  int32_t status;
  if (size < UNLOCKED_SIZE) {
    status = mb_read_port(open->peer, bytes, size, &open->at, list, &meta, &meta_size, &error);
  } else { /* a hostile one may take long to check */
    Py_BEGIN_ALLOW_THREADS status = mb_read_port(open->peer, bytes, size, &open->at, list, &meta, &meta_size, &error);
    Py_END_ALLOW_THREADS
  }
  if (status != 0) {
    fail(&error, status);
  } else if (meta_size > 0) {
    if (*metas == NULL) {
      *metas = PyList_New((Py_ssize_t)ports);
      for (uint32_t at = 0; *metas != NULL && at < ports; at++) {
        PyList_SET_ITEM(*metas, (Py_ssize_t)at, PyBytes_FromStringAndSize(NULL, 0)); /* the shared empty bytes */
      }
    }
    PyObject *block = *metas != NULL ? PyBytes_FromStringAndSize((const char *)meta, (Py_ssize_t)meta_size) : NULL;
    if (block != NULL) PyList_SetItem(*metas, (Py_ssize_t)port, block);
  }
  if (PyErr_Occurred()) {
    mb_list_free(list);
    return NULL;
  }
  return list;
}

/* Frees lists that nobody has taken over. */
static void drop_lists(PyObject *addresses) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(addresses); at++) {
    PyObject *address = PyList_GET_ITEM(addresses, at);
    if (address != NULL) mb_list_free(PyLong_AsVoidPtr(address));
  }
}

/* All ports of a call (Core objects) or a result (addresses of lists). */
static PyObject *read_ports(message *open, uint32_t ports, bool as_cores, PyObject **metas) {
  PyObject *made = PyList_New((Py_ssize_t)ports);
  for (uint32_t port = 0; made != NULL && port < ports; port++) {
    mb_list *list = read_port(open, port, ports, metas);
    PyObject *item = NULL;
    if (list != NULL) item = as_cores ? cores_of(list) : PyLong_FromVoidPtr(list);
    if (list != NULL && (as_cores || item == NULL)) mb_list_free(list);
    if (item == NULL) {
      if (!as_cores) drop_lists(made);
      Py_CLEAR(made);
    } else {
      PyList_SET_ITEM(made, (Py_ssize_t)port, item);
    }
  }
  return made;
}

static PyObject *read_one_call(message *open) {
  mb_call_head head;
  mb_error error = {0};
  int32_t status = mb_read_call(open->data.buf, (uint64_t)open->data.len, &open->at, &head, &error);
  if (status != 0) return fail(&error, status);
  PyObject *metas = NULL;
  PyObject *inputs = read_ports(open, head.ports, true, &metas);
  PyObject *made = NULL;
  if (inputs != NULL) {
    made = Py_BuildValue("KKIs#OO", (unsigned long long)head.stream, (unsigned long long)head.session, head.flags,
                         head.session_id, (Py_ssize_t)strnlen(head.session_id, MB_SESSION_ID), inputs,
                         metas != NULL ? metas : Py_None);
  }
  Py_XDECREF(inputs);
  Py_XDECREF(metas);
  return made;
}

static PyObject *read_one_result(message *open) {
  mb_result_head head;
  mb_error error = {0};
  const char *text;
  int32_t status = mb_read_result(open->data.buf, (uint64_t)open->data.len, &open->at, &head, &text, &error);
  if (status != 0) return fail(&error, status);
  PyObject *metas = NULL;
  PyObject *outputs = read_ports(open, head.ports, false, &metas);
  PyObject *made = NULL;
  if (outputs != NULL) {
    made = Py_BuildValue("IIy#OO", head.flags, head.status, text, (Py_ssize_t)head.text_size, outputs,
                         metas != NULL ? metas : Py_None);
    if (made == NULL) drop_lists(outputs);
  }
  Py_XDECREF(outputs);
  Py_XDECREF(metas);
  return made;
}

/* Every item of a message, then the ids that come back. */
static PyObject *read_all(PyObject *arguments, PyObject *(*read_one)(message *), bool lists) {
  message open;
  if (!message_open(&open, arguments)) return NULL;
  PyObject *made = PyList_New(0);
  for (unsigned int at = 0; made != NULL && at < open.count; at++) {
    PyObject *item = read_one(&open);
    int status = item != NULL ? PyList_Append(made, item) : -1;
    if (status != 0 && item != NULL && lists) drop_lists(PyTuple_GET_ITEM(item, 3));
    Py_XDECREF(item);
    if (status != 0) break;
  }
  if (made != NULL && !PyErr_Occurred() && open.released > 0) {
    mb_error error = {0};
    int32_t status =
        mb_read_released(open.peer, open.data.buf, (uint64_t)open.data.len, &open.at, open.released, &error);
    if (status != 0) fail(&error, status);
  }
  if (made != NULL && !PyErr_Occurred() && open.at != (uint64_t)open.data.len) {
    mb_error error = {MB_INVALID, "a message that is too long for what it says"};
    fail(&error, 0);
  }
  PyBuffer_Release(&open.data);
  if (made != NULL && PyErr_Occurred()) {
    for (Py_ssize_t at = 0; lists && at < PyList_GET_SIZE(made); at++) {
      drop_lists(PyTuple_GET_ITEM(PyList_GET_ITEM(made, at), 3));
    }
    Py_CLEAR(made);
  }
  return made;
}

static PyObject *read_calls(PyObject *module, PyObject *arguments) {
  (void)module;
  return read_all(arguments, read_one_call, false);
}

static PyObject *read_results(PyObject *module, PyObject *arguments) {
  (void)module;
  return read_all(arguments, read_one_result, true);
}

static PyObject *has_news(PyObject *module, PyObject *address) {
  (void)module;
  mb_peer *peer = pointer(address);
  return peer != NULL ? PyBool_FromLong(mb_peer_has_news(peer)) : NULL;
}

static PyObject *set_raiser(PyObject *module, PyObject *function) {
  (void)module;
  Py_XSETREF(raiser, Py_NewRef(function));
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"make_core", make_core, METH_VARARGS, "make_core(pool, data, kind, meta): a copy of data, unsealed."},
    {"make_error", make_error, METH_VARARGS, "make_error(code, message, kind, meta): a buffer that carries an error."},
    {"make_empty", make_empty, METH_VARARGS, "make_empty(pool, size): unsealed, its bytes not set."},
    {"adopt", adopt, METH_O, "adopt(address): takes over a reference to an mb_buffer."},
    {"of_list", of_list, METH_O, "of_list(address): the buffers of an mb_list."},
    {"to_list", to_list, METH_O, "to_list(cores): the address of a new mb_list, which is yours."},
    {"pack_list", pack_list, METH_VARARGS,
     "pack_list(pool, data, kind, meta): the address of a new mb_list, which is yours, of one sealed buffer."},
    {"read_calls", read_calls, METH_VARARGS,
     "read_calls(peer, data, at, count, released): (stream, session, flags, session id, [[Core]], metas) per call"},
    {"read_results", read_results, METH_VARARGS,
     "read_results(peer, data, at, count, released): (flags, status, text, [list address, yours], metas) per result"},
    {"has_news", has_news, METH_O, "has_news(peer): arenas are to be announced or unmapped."},
    {"set_raiser", set_raiser, METH_O, "set_raiser(function(status, text)): what raises the core's errors."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_objects", "Core objects and messages.", -1, functions, NULL, NULL, NULL, NULL};

/* Adds a type; what is returned is the module's. */
static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
  PyObject *type = module != NULL ? PyType_FromSpec(spec) : NULL;
  if (type != NULL && PyModule_AddObject(module, strrchr(spec->name, '.') + 1, type) < 0) Py_CLEAR(type);
  return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__objects(void) {
  PyObject *module = PyModule_Create(&definition);
  core_type = add_type(module, &core_spec);
  bool good = core_type != NULL && add_type(module, &exporter_spec) != NULL && add_type(module, &writer_spec) != NULL;
  if (!good || PyModule_AddFunctions(module, mb_block_functions) < 0) Py_CLEAR(module);
  return module;
}
