/* Writer: makes messages of calls or results. The peer comes as an address, with the object that keeps it alive. */
#include "objects.h"

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
  mb_peer *peer = mb_pointer(address);
  if (peer == NULL) return NULL;
  writer_object *self = (writer_object *)PyType_GenericAlloc(type, 0);
  if (self == NULL) return NULL;
  self->owner = Py_NewRef(owner);
  self->writer = mb_writer_new(peer);
  if (self->writer == NULL) {
    Py_DECREF(self);
    return mb_no_memory();
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
    const mb_list *list = mb_pointer(PyList_GET_ITEM(lists, at));
    if (list == NULL || !meta_at(metas, at, &meta, &meta_size)) return NULL;
    status = mb_writer_port(writer, list, meta, meta_size, &error);
  }
  if (status != 0) return mb_fail(&error, status);
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
    if (list == NULL) return mb_no_memory();
    if (!mb_push_all(list, PyList_GET_ITEM(ports, at), true)) {
      mb_list_free(list);
      return NULL;
    }
    status = mb_writer_port(writer, list, meta, meta_size, &error);
    mb_list_free(list);
  }
  if (status != 0) return mb_fail(&error, status);
  Py_RETURN_NONE;
}

static PyObject *writer_finish(PyObject *object, PyObject *arguments) {
  mb_writer *writer = ((writer_object *)object)->writer;
  unsigned char kind;
  unsigned int sequence, count;
  unsigned long long limit, body_limit;
  PyObject *address;
  if (!PyArg_ParseTuple(arguments, "bIIOKK", &kind, &sequence, &count, &address, &limit, &body_limit)) return NULL;
  mb_pool *pool = mb_pointer(address);
  if (pool == NULL) return NULL;
  mb_error error = {0};
  const uint8_t *message;
  uint64_t size;
  int32_t released = mb_writer_finish(writer, kind, sequence, count, pool, limit, body_limit, &message, &size, &error);
  if (released < 0) return mb_fail(&error, released);
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

PyType_Spec mb_writer_spec = {
    .name = "modelbox._core._objects.Writer",
    .basicsize = sizeof(writer_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = writer_slots,
};
