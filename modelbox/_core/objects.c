/*
 * The core's hot paths as Python objects, without cffi's costs: Core owns one reference to an mb_buffer and
 * shows its bytes, Writer and the read functions make and split messages. Lives in the same library as the
 * cffi module (see __init__.py). Pools, peers and lists come as addresses that the Python side keeps alive.
 *
 * Exporter: a base class through which a Python class offers the buffer protocol. PEP 688 lets Python code
 * define __buffer__ from 3.12 on; this type does the same on earlier versions.
 */
#include "objects.h"

static PyObject *raiser; /* raiser(status, text) raises the exception that fits */

PyObject *mb_fail(const mb_error *error, int32_t status) {
  int32_t code = error->status != 0 ? error->status : status < 0 ? -status : status;
  PyObject *none = PyObject_CallFunction(raiser, "is", (int)code, error->message);
  Py_XDECREF(none);
  if (none != NULL) PyErr_SetString(PyExc_SystemError, "an error of the core was not raised");
  return NULL;
}

PyObject *mb_no_memory(void) {
  mb_error error = {MB_NOMEM, "out of memory"};
  return mb_fail(&error, 0);
}

void *mb_pointer(PyObject *address) {
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

static PyObject *has_news(PyObject *module, PyObject *address) {
  (void)module;
  mb_peer *peer = mb_pointer(address);
  return peer != NULL ? PyBool_FromLong(mb_peer_has_news(peer)) : NULL;
}

static PyObject *set_raiser(PyObject *module, PyObject *function) {
  (void)module;
  Py_XSETREF(raiser, Py_NewRef(function));
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
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
  PyTypeObject *core = add_type(module, &mb_core_spec);
  mb_set_core_type(core);
  bool good = core != NULL && add_type(module, &exporter_spec) != NULL && add_type(module, &mb_writer_spec) != NULL;
  PyMethodDef *parts[] = {mb_core_functions, mb_read_functions, mb_block_functions};
  for (size_t at = 0; good && at < sizeof(parts) / sizeof(parts[0]); at++) {
    good = PyModule_AddFunctions(module, parts[at]) == 0;
  }
  if (!good) Py_CLEAR(module);
  return module;
}
