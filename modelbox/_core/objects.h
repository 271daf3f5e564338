/* What the files of the module _objects share: cores.c the buffers, writer.c and reader.c the messages,
 * blocks.c the meta blocks. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#include "core.h"
#include "limited.h"

#define UNLOCKED_SIZE (128u << 10) /* bytes; copies and releases from this size on let other threads run */

/* Raises what fits the error, or the status when the error has none. */
PyObject *mb_fail(const mb_error *error, int32_t status);
PyObject *mb_no_memory(void);

/* The pointer that a Python number is; NULL with an exception for 0 and what is no number. */
void *mb_pointer(PyObject *address);

/* A Core that takes over the reference; NULL with an exception when there is none. `place`: its writable bytes. */
PyObject *mb_core_over(mb_buffer *buffer, void *place);

/* The buffers of a list as Core objects; None for a placeholder. */
PyObject *mb_cores_of(const mb_list *list);

/* Appends Core objects to a list; false with an exception. */
bool mb_push_all(mb_list *list, PyObject *cores, bool seal);

/* Types of the module; the core's is known to cores.c once it is made. */
extern PyType_Spec mb_core_spec, mb_writer_spec;
void mb_set_core_type(PyTypeObject *type);

/* Functions of the module. */
extern PyMethodDef mb_core_functions[], mb_read_functions[], mb_block_functions[];
