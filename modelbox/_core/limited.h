/*
 * objects.c and blocks.c are built twice: for the interpreter that runs the server, and, with Py_LIMITED_API, as a
 * library that loads into every CPython from 3.9 on (units with an interpreter of their own). The limited API has
 * functions in place of some macros; what it declares from 3.11 on and is used here (the buffer protocol) is the same
 * in 3.9 and 3.10.
 */
#ifndef MODELBOX_LIMITED_H
#define MODELBOX_LIMITED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h> /* Python.h does not bring them along everywhere */

#ifdef Py_LIMITED_API
#define PyBytes_AS_STRING PyBytes_AsString
#define PyBytes_GET_SIZE PyBytes_Size
#define PyDict_GET_SIZE PyDict_Size
#define PyFloat_AS_DOUBLE PyFloat_AsDouble
#define PyList_GET_ITEM PyList_GetItem
#define PyList_GET_SIZE PyList_Size
#define PyList_SET_ITEM(list, at, item) ((void)PyList_SetItem(list, at, item))
#define PyTuple_GET_ITEM PyTuple_GetItem
#endif

#ifndef Py_XSETREF
#define Py_XSETREF(to, from) \
  do {                       \
    PyObject *before = (to); \
    (to) = (from);           \
    Py_XDECREF(before);      \
  } while (0)
#endif

#endif
