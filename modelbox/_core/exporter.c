/*
 * Exporter: a base class through which a Python class offers the buffer protocol.
 *
 * PEP 688 lets Python code define __buffer__ from 3.12 on. This type does the same on earlier versions:
 * bf_getbuffer calls self.__buffer__(flags), which returns a memoryview, and re-exports that view.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

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

static PyBufferProcs exporter_buffer = {exporter_getbuffer, NULL};

static PyTypeObject exporter_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "modelbox._core._exporter.Exporter",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "Base class that turns __buffer__(flags) -> memoryview into the buffer protocol.",
    .tp_as_buffer = &exporter_buffer,
    .tp_new = PyType_GenericNew,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_exporter", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__exporter(void) {
  if (PyType_Ready(&exporter_type) < 0) return NULL;
  PyObject *made = PyModule_Create(&module);
  if (made == NULL) return NULL;
  if (PyModule_AddObjectRef(made, "Exporter", (PyObject *)&exporter_type) < 0) {
    Py_DECREF(made);
    return NULL;
  }
  return made;
}
