/* Takes messages of calls or results apart. The peer comes as an address that the Python side keeps alive. */
#include "objects.h"

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
  open->peer = mb_pointer(address);
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
    mb_no_memory();
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
    mb_fail(&error, status);
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
    if (list != NULL) item = as_cores ? mb_cores_of(list) : PyLong_FromVoidPtr(list);
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
  if (status != 0) return mb_fail(&error, status);
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
  if (status != 0) return mb_fail(&error, status);
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
    if (status != 0) mb_fail(&error, status);
  }
  if (made != NULL && !PyErr_Occurred() && open.at != (uint64_t)open.data.len) {
    mb_error error = {MB_INVALID, "a message that is too long for what it says"};
    mb_fail(&error, 0);
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

PyMethodDef mb_read_functions[] = {
    {"read_calls", read_calls, METH_VARARGS,
     "read_calls(peer, data, at, count, released): (stream, session, flags, session id, [[Core]], metas) per call"},
    {"read_results", read_results, METH_VARARGS,
     "read_results(peer, data, at, count, released): (flags, status, text, [list address, yours], metas) per result"},
    {NULL, NULL, 0, NULL},
};
