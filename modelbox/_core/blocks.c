/*
 * Meta blocks to dicts and back (their form is drawn in csrc/src/core.h). What occurs in every buffer is done
 * here: numbers, text, types, lists of whole numbers. All else goes to the Python functions of modelbox/meta.py.
 */
#include "objects.h"

typedef struct entry {
  uint8_t kind, key_size;
  uint16_t zero;
  uint32_t size;
} entry;

static PyObject *dtype_class, *dtypes;                /* ModelBoxDataType; number -> member */
static PyObject *encode_in_python, *decode_in_python; /* (key, value) -> entry; (kind, value, pickle) -> value */

static uint64_t padded(uint64_t size) { return (size + 7) & ~7ull; }

/* ---- decoding --------------------------------------------------------------------------------------------- */

static PyObject *decode_ints(const uint8_t *value, uint32_t size) {
  PyObject *made = PyList_New((Py_ssize_t)(size / 8));
  for (uint32_t at = 0; made != NULL && at < size / 8; at++) {
    int64_t number;
    memcpy(&number, value + (size_t)at * 8, 8);
    PyObject *item = PyLong_FromLongLong(number);
    if (item == NULL) {
      Py_CLEAR(made);
    } else {
      PyList_SET_ITEM(made, (Py_ssize_t)at, item);
    }
  }
  return made;
}

static PyObject *decode_dtype(int64_t number) {
  PyObject *key = PyLong_FromLongLong(number);
  PyObject *member = key != NULL ? PyDict_GetItemWithError(dtypes, key) : NULL;
  if (member == NULL) return PyErr_Occurred() ? NULL : key; /* a number that we do not know */
  Py_DECREF(key);
  return Py_NewRef(member);
}

static PyObject *decode_value(const entry *head, const uint8_t *value, int pickle) {
  int64_t word = 0;
  double real;
  if (head->size == 8) memcpy(&word, value, 8);
  if (head->kind == MB_META_STRING)
    return PyUnicode_DecodeUTF8((const char *)value, (Py_ssize_t)head->size, "surrogateescape");
  if (head->kind == MB_META_INTS) return decode_ints(value, head->size);
  if (head->size == 8 && head->kind == MB_META_INT) return PyLong_FromLongLong(word);
  if (head->size == 8 && head->kind == MB_META_BOOL) return PyBool_FromLong(word != 0);
  if (head->size == 8 && head->kind == MB_META_DTYPE) return decode_dtype(word);
  if (head->size == 8 && head->kind == MB_META_DOUBLE) {
    memcpy(&real, value, 8);
    return PyFloat_FromDouble(real);
  }
  return PyObject_CallFunction(decode_in_python, "iy#i", (int)head->kind, (const char *)value, (Py_ssize_t)head->size,
                               pickle);
}

static PyObject *decode_block(PyObject *module, PyObject *arguments) {
  (void)module;
  Py_buffer block;
  int pickle;
  if (!PyArg_ParseTuple(arguments, "y*p", &block, &pickle)) return NULL;
  const uint8_t *bytes = block.buf;
  uint64_t size = (uint64_t)block.len, at = 0;
  PyObject *made = PyDict_New();
  while (made != NULL && at < size) {
    entry head = {0};
    if (size - at >= sizeof head) memcpy(&head, bytes + at, sizeof head);
    const uint64_t value_at = at + sizeof head + padded(head.key_size);
    const uint64_t end = value_at + padded((uint64_t)head.size + (head.kind == MB_META_STRING));
    if (size - at < sizeof head || end > size) {
      PyErr_SetString(PyExc_ValueError, "damaged meta: cut off");
      Py_CLEAR(made);
      break;
    }
    PyObject *key = PyUnicode_DecodeUTF8((const char *)bytes + at + sizeof head, head.key_size, "surrogateescape");
    PyObject *value = key != NULL ? decode_value(&head, bytes + value_at, pickle) : NULL;
    if (value == NULL || PyDict_SetItem(made, key, value) != 0) Py_CLEAR(made);
    Py_XDECREF(key);
    Py_XDECREF(value);
    at = end;
  }
  PyBuffer_Release(&block);
  return made;
}

/* ---- encoding --------------------------------------------------------------------------------------------- */

typedef struct output {
  uint8_t *bytes;
  size_t size, capacity;
} output;

/* Room for `size` more bytes, zeroed and counted as written; NULL with an exception. */
static uint8_t *extend(output *out, size_t size) {
  if (out->capacity - out->size < size) {
    size_t capacity = 2 * (out->size + size) + 256;
    uint8_t *larger = PyMem_Realloc(out->bytes, capacity);
    if (larger == NULL) {
      PyErr_NoMemory();
      return NULL;
    }
    out->bytes = larger;
    out->capacity = capacity;
  }
  uint8_t *to = out->bytes + out->size;
  memset(to, 0, size);
  out->size += size;
  return to;
}

static bool put_entry(output *out, const char *key, Py_ssize_t key_size, int kind, const void *value, size_t size) {
  entry head = {(uint8_t)kind, (uint8_t)key_size, 0, (uint32_t)size};
  size_t key_space = padded((uint64_t)key_size);
  uint8_t *to = extend(out, sizeof head + key_space + padded(size + (kind == MB_META_STRING)));
  if (to == NULL) return false;
  memcpy(to, &head, sizeof head);
  memcpy(to + sizeof head, key, (size_t)key_size);
  if (size > 0) memcpy(to + sizeof head + key_space, value, size);
  return true;
}

/* A whole number of 64 bits; false, without an exception, for others. */
static bool whole(PyObject *value, int64_t *number) {
  int overflow;
  *number = PyLong_AsLongLongAndOverflow(value, &overflow);
  return overflow == 0;
}

/* 1 = done, 0 = not one of the kinds that are done here, -1 = failed. */
static int put_ints(output *out, const char *key, Py_ssize_t key_size, PyObject *list) {
  Py_ssize_t count = PyList_GET_SIZE(list);
  int64_t few[16];
  if (count == 0 || count > 16) return 0;
  for (Py_ssize_t at = 0; at < count; at++) {
    PyObject *item = PyList_GET_ITEM(list, at);
    if (!PyLong_CheckExact(item) || !whole(item, &few[at])) return 0;
  }
  return put_entry(out, key, key_size, MB_META_INTS, few, (size_t)count * 8) ? 1 : -1;
}

static int put_value(output *out, const char *key, Py_ssize_t key_size, PyObject *value) {
  int64_t number;
  int kind = 0;
  if (PyList_CheckExact(value)) return put_ints(out, key, key_size, value);
  if (PyUnicode_CheckExact(value)) {
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    if (text == NULL) PyErr_Clear(); /* lone surrogates */
    if (text == NULL || size > MB_META_MAX_SIZE || memchr(text, 0, (size_t)size) != NULL) return 0;
    return put_entry(out, key, key_size, MB_META_STRING, text, (size_t)size) ? 1 : -1;
  }
  if (PyFloat_CheckExact(value)) {
    double real = PyFloat_AS_DOUBLE(value);
    return put_entry(out, key, key_size, MB_META_DOUBLE, &real, 8) ? 1 : -1;
  }
  if (PyBool_Check(value)) {
    kind = MB_META_BOOL;
    number = value == Py_True;
  } else if (PyLong_CheckExact(value) && whole(value, &number)) {
    kind = MB_META_INT;
  } else if ((PyObject *)Py_TYPE(value) == dtype_class && whole(value, &number)) {
    kind = MB_META_DTYPE;
  }
  if (kind == 0) return 0;
  return put_entry(out, key, key_size, kind, &number, 8) ? 1 : -1;
}

static bool put_item(output *out, PyObject *key, PyObject *value) {
  Py_ssize_t key_size = 0;
  const char *name = PyUnicode_CheckExact(key) ? PyUnicode_AsUTF8AndSize(key, &key_size) : NULL;
  if (name == NULL) PyErr_Clear();
  bool plain = name != NULL && key_size > 0 && key_size < 256 && memchr(name, 0, (size_t)key_size) == NULL;
  int done = plain ? put_value(out, name, key_size, value) : 0;
  if (done != 0) return done > 0;
  PyObject *made = PyObject_CallFunctionObjArgs(encode_in_python, key, value, NULL);
  char *bytes;
  Py_ssize_t size;
  uint8_t *to = NULL;
  if (made != NULL && PyBytes_AsStringAndSize(made, &bytes, &size) == 0) to = extend(out, (size_t)size);
  if (to != NULL) memcpy(to, bytes, (size_t)size);
  Py_XDECREF(made);
  return to != NULL;
}

static PyObject *encode_block(PyObject *module, PyObject *values) {
  (void)module;
  if (!PyDict_Check(values)) return PyErr_Format(PyExc_TypeError, "meta must be a dict");
  PyObject *items = PyDict_Items(values); /* pickling may run code that changes the dict */
  if (items == NULL) return NULL;
  output out = {0};
  bool good = true;
  for (Py_ssize_t at = 0; good && at < PyList_GET_SIZE(items); at++) {
    PyObject *item = PyList_GET_ITEM(items, at);
    good = put_item(&out, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1));
  }
  Py_DECREF(items);
  PyObject *made = good ? PyBytes_FromStringAndSize((const char *)out.bytes, (Py_ssize_t)out.size) : NULL;
  PyMem_Free(out.bytes);
  return made;
}

static PyObject *set_codec(PyObject *module, PyObject *arguments) {
  (void)module;
  PyObject *enum_class, *members, *encode, *decode;
  if (!PyArg_ParseTuple(arguments, "OO!OO", &enum_class, &PyDict_Type, &members, &encode, &decode)) return NULL;
  Py_XSETREF(dtype_class, Py_NewRef(enum_class));
  Py_XSETREF(dtypes, Py_NewRef(members));
  Py_XSETREF(encode_in_python, Py_NewRef(encode));
  Py_XSETREF(decode_in_python, Py_NewRef(decode));
  Py_RETURN_NONE;
}

PyMethodDef mb_block_functions[] = {
    {"decode_block", decode_block, METH_VARARGS, "decode_block(block, allow pickle): the values of a meta block."},
    {"encode_block", encode_block, METH_O, "encode_block(dict): its meta block."},
    {"set_codec", set_codec, METH_VARARGS,
     "set_codec(enum of types, number -> member, encode one entry, decode one value): what Python does of it."},
    {NULL, NULL, 0, NULL},
};
