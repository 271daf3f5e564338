/*
 * modelbox plugin ABI, version 1: all that a native flow unit needs.
 *
 * A plugin is a shared library that exports one function, mb_plugin_entry_v1(), and links against
 * nothing of modelbox: everything the host offers is reached through the mb_host table. The header
 * compiles alone as C11 and as C++17.
 *
 * Words. A *unit* is a kind of step; a *node* is a unit placed in a graph (one `state` per node); a
 * *call* is one run of process(), seen through an mb_call; a *buffer* is data plus typed meta.
 *
 * Ownership, by word:
 *   borrowed  valid until the call that handed it out returns; do not release it
 *   owned     yours; give it back with buffer_unref(), or hand it on to a function that consumes it
 *   consumed  the host takes it, even when the function fails
 *
 * Threads, by tag:
 *   [any-thread]  from any thread at any time
 *   [call]        only on the thread that runs the call, and only while the call runs
 *   [node]        open() and close(): never beside anything else of the same node
 *
 * Growth. Every struct that may grow begins with `struct_size`; fields are only ever appended, and a
 * reader never touches bytes beyond the smaller of both sizes. Reserved fields are zero. A different
 * MB_ABI_MAJOR is refused before anything is called; any minor loads.
 *
 * Functions return 0 or minus an mb_status. No C++ exception, longjmp or errno crosses the boundary.
 * Strings are UTF-8 and end with NUL. Meta values and data are in the machine's byte order.
 */
#ifndef MODELBOX_PLUGIN_H
#define MODELBOX_PLUGIN_H

#ifndef MB_CFFI /* the cffi build reads the declarations below without the preprocessor's help */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#error "modelbox runs on Linux"
#endif
#define MB_EXPORT __attribute__((visibility("default")))
#endif

#define MB_ABI_MAJOR 1
#define MB_ABI_MINOR 1

/* Status numbers; the same as Status.StatusCode in Python. Returned negated by functions. */
enum mb_status {
  MB_SUCCESS = 0,
  MB_FAULT = 1,
  MB_NOTFOUND = 2,
  MB_INVALID = 3,
  MB_AGAIN = 4,
  MB_BADCONF = 5,
  MB_NOMEM = 6,
  MB_RANGE = 7,
  MB_EXIST = 8,
  MB_INTERNAL = 9,
  MB_BUSY = 10,
  MB_PERMIT = 11,
  MB_NOTSUPPORT = 12,
  MB_NODATA = 13,
  MB_NOSPACE = 14,
  MB_NOBUFS = 15,
  MB_OVERFLOW = 16,
  MB_INPROGRESS = 17,
  MB_ALREADY = 18,
  MB_TIMEDOUT = 19,
  MB_NOSTREAM = 20,
  MB_RESET = 21,
  MB_CONTINUE = 22,
  MB_EDQUOT = 23,
  MB_STOP = 24,
  MB_SHUTDOWN = 25,
  MB_EOF = 26,
  MB_NOENT = 27,
  MB_DEADLOCK = 28,
  MB_NORESPONSE = 29,
  MB_IO = 30
};

/* Element types: the value of the meta key "type". Numbers are those of ModelBoxDataType. */
enum mb_dtype {
  MB_DTYPE_INVALID = 0,
  MB_DTYPE_FLOAT = 1,
  MB_DTYPE_DOUBLE = 2,
  MB_DTYPE_INT32 = 3,
  MB_DTYPE_UINT8 = 4,
  MB_DTYPE_INT16 = 5,
  MB_DTYPE_INT8 = 6,
  MB_DTYPE_STRING = 7,
  MB_DTYPE_INT64 = 9,
  MB_DTYPE_BOOL = 10,
  MB_DTYPE_BFLOAT16 = 14,
  MB_DTYPE_UINT16 = 17,
  MB_DTYPE_HALF = 19,
  MB_DTYPE_UINT32 = 22,
  MB_DTYPE_UINT64 = 23
};

/* What a buffer holds; decides how Python shows it. */
enum mb_kind { MB_KIND_RAW = 0, MB_KIND_IMAGE = 1, MB_KIND_STRING = 2 };

enum mb_log_level { MB_LOG_DEBUG = 0, MB_LOG_INFO = 1, MB_LOG_NOTICE = 2, MB_LOG_WARN = 3, MB_LOG_ERROR = 4 };

/* Unit flags. Without MB_UNIT_STREAM a unit is NORMAL: calls may run at the same time on several
 * threads with the same state, a call may mix buffers of several streams, and every output port gets
 * exactly as many buffers as came in, in the same order. */
#define MB_UNIT_STREAM 1u      /* calls of one stream come in order, one after the other */
#define MB_UNIT_ELEMENTWISE 2u /* each output depends on its own input only: batches gain nothing */
#define MB_UNIT_SEES_ERRORS 4u /* error buffers are handed to process() (exception_visible) */

/* Kinds of units that are not plain, since minor 1; at most one of them. */
#define MB_UNIT_CONDITION 8u     /* 2 or more outputs: a call gets one buffer per port and pushes one, on one port */
#define MB_UNIT_EXPAND 16u       /* a call gets one buffer per port; what it pushes is a sub-stream of its own */
#define MB_UNIT_COLLAPSE 32u     /* a call gets a whole sub-stream and pushes at most one buffer per port */
#define MB_UNIT_COLLAPSE_ANY 64u /* with COLLAPSE: calls as buffers come (collapse_all = false) */
#define MB_UNIT_LOOP 128u        /* 1 input, 2 outputs, one leads back: one buffer in, one out, on one port */

typedef struct mb_buffer mb_buffer; /* data and meta, reference-counted, read-only once pushed */
typedef struct mb_call mb_call;     /* one run of process() */
typedef struct mb_config mb_config; /* the options of a node */

typedef struct mb_host {
  uint32_t struct_size;
  uint16_t abi_major;
  uint16_t abi_minor;

  /* ---- buffers -------------------------------------------------------------------------------- */

  /* A new buffer of `size` bytes, uninitialised, aligned to 64, owned. NULL when memory is out or the
   * size is beyond the configured limit; the reason is then already set on the call. [call] */
  mb_buffer *(*buffer_new)(mb_call *call, uint64_t size);
  /* A new buffer over the same data with its own copy of the meta, owned. [any-thread] */
  mb_buffer *(*buffer_share)(const mb_buffer *buffer);
  /* One more reference to the same buffer, owned. [any-thread] */
  mb_buffer *(*buffer_ref)(mb_buffer *buffer);
  /* Gives an owned reference back. NULL is allowed. [any-thread] */
  void (*buffer_unref)(mb_buffer *buffer);
  /* The bytes; NULL for an empty buffer. Borrowed from the buffer. [any-thread] */
  const void *(*buffer_data)(const mb_buffer *buffer);
  /* The bytes for writing, only for a buffer from buffer_new() that was not pushed yet; else NULL. */
  void *(*buffer_writable)(mb_buffer *buffer);
  /* Size in bytes; 0 for an error buffer. [any-thread] */
  uint64_t (*buffer_size)(const mb_buffer *buffer);
  /* Makes the buffer shorter; `size` must not exceed the present one. Unpushed buffers only. [call] */
  int32_t (*buffer_truncate)(mb_buffer *buffer, uint64_t size);
  int32_t (*buffer_kind)(const mb_buffer *buffer);
  int32_t (*buffer_set_kind)(mb_buffer *buffer, int32_t kind);
  /* 1 when the buffer carries an error; code and message are borrowed from the buffer. [any-thread] */
  int32_t (*buffer_error)(const mb_buffer *buffer, const char **code, const char **message);

  /* ---- meta: typed values by key --------------------------------------------------------------
   * Keys are 1 to 255 bytes. Getters return 0, -MB_NOTFOUND, or -MB_INVALID when the value has another
   * type (an integer reads as double, not the other way). Setters replace; they work on buffers of this
   * call that were not pushed yet, else -MB_PERMIT. Pointers that a getter gives are borrowed from the
   * buffer and end with the next setter on it. [any-thread] */
  int32_t (*meta_get_int)(const mb_buffer *buffer, const char *key, int64_t *value);
  int32_t (*meta_get_double)(const mb_buffer *buffer, const char *key, double *value);
  int32_t (*meta_get_bool)(const mb_buffer *buffer, const char *key, int32_t *value);
  int32_t (*meta_get_string)(const mb_buffer *buffer, const char *key, const char **value, uint64_t *size);
  int32_t (*meta_get_ints)(const mb_buffer *buffer, const char *key, const int64_t **values, uint32_t *count);
  int32_t (*meta_get_doubles)(const mb_buffer *buffer, const char *key, const double **values, uint32_t *count);
  int32_t (*meta_get_dtype)(const mb_buffer *buffer, const char *key, int32_t *dtype);
  int32_t (*meta_set_int)(mb_buffer *buffer, const char *key, int64_t value);
  int32_t (*meta_set_double)(mb_buffer *buffer, const char *key, double value);
  int32_t (*meta_set_bool)(mb_buffer *buffer, const char *key, int32_t value);
  int32_t (*meta_set_string)(mb_buffer *buffer, const char *key, const char *value);
  int32_t (*meta_set_ints)(mb_buffer *buffer, const char *key, const int64_t *values, uint32_t count);
  int32_t (*meta_set_doubles)(mb_buffer *buffer, const char *key, const double *values, uint32_t count);
  int32_t (*meta_set_dtype)(mb_buffer *buffer, const char *key, int32_t dtype);
  /* Copies from `from` every key that `to` does not have yet. */
  int32_t (*meta_copy)(mb_buffer *to, const mb_buffer *from);

  /* ---- the call -------------------------------------------------------------------------------- */

  /* The input buffers of port number `port` (order of the description), borrowed; `count` may be 0.
   * All ports of a NORMAL unit have the same count, and equal positions belong together. [call] */
  mb_buffer *const *(*inputs)(mb_call *call, uint32_t port, uint32_t *count);
  /* Appends to output port number `port`; the buffer is consumed. [call] */
  int32_t (*push)(mb_call *call, uint32_t port, mb_buffer *buffer);
  /* Appends an error buffer, the answer for an input that cannot be processed. `code` is
   * "<Unit>.<Reason>", e.g. "ImageDecoder.DecodeFailed". Strings are copied. [call] */
  int32_t (*push_error)(mb_call *call, uint32_t port, const char *code, const char *message);
  /* Says why process() or open() is about to return a failure; copied. `call` may be NULL in open(). */
  void (*set_error)(mb_call *call, const char *message);
  /* A place for the state of the stream that this call belongs to (MB_UNIT_STREAM only, else NULL). */
  void **(*stream_state)(mb_call *call);

  /* ---- options of a node, in open() only [node] ------------------------------------------------
   * A missing key gives `fallback`. -MB_BADCONF with an error already set when the text does not fit
   * the type. config_strings splits at commas; item i of n is asked for with index i; count alone with
   * value NULL. Strings are borrowed until open() returns. */
  int32_t (*config_has)(const mb_config *config, const char *key);
  const char *(*config_string)(const mb_config *config, const char *key, const char *fallback);
  int32_t (*config_int)(const mb_config *config, const char *key, int64_t fallback, int64_t *value);
  int32_t (*config_double)(const mb_config *config, const char *key, double fallback, double *value);
  int32_t (*config_bool)(const mb_config *config, const char *key, int32_t fallback, int32_t *value);
  int32_t (*config_doubles)(const mb_config *config, const char *key, double *values, uint32_t capacity,
                            uint32_t *count);

  /* ---- services -------------------------------------------------------------------------------- */

  /* One line to the server's log. [any-thread] */
  void (*log)(int32_t level, const char *message);
  /* Optional features by name ("mb.device-memory/1"); NULL when the host lacks it. [any-thread] */
  const void *(*get_extension)(const char *id);

  /* ---- events ------------------------------------------------------------------------------------ */

  /* Asks for one more process() call in the same context, without inputs, before further inputs of it. While one
   * waits a stream stays open beyond the end of its input. MB_UNIT_STREAM and MB_UNIT_EXPAND only (else
   * -MB_NOTSUPPORT); -MB_NOBUFS when too many wait. [call] */
  int32_t (*send_event)(mb_call *call);
  /* 1 in a call that answers an event. [call] */
  int32_t (*is_event)(const mb_call *call);
} mb_host;

typedef struct mb_port {
  const char *name;
  const char *type;   /* a type of the tree under "raw": raw, buff, tensor, image, string, ...; NULL = raw */
  const char *device; /* where the port wants its data; NULL = the unit's device */
} mb_port;

typedef struct mb_option {
  const char *name;
  const char *type;     /* "int", "float", "bool", "string", "list" */
  const char *fallback; /* the default as text, NULL when there is none */
  int32_t required;
  const char *description;
  const char *values; /* allowed values, separated by "|"; NULL = any */
} mb_option;

/* One unit. All pointers stay valid as long as the library is loaded. */
typedef struct mb_unit {
  uint32_t struct_size;
  uint32_t flags;          /* MB_UNIT_* */
  const char *name;        /* the word that graphs use */
  const char *device;      /* "cpu", "cuda", ... */
  const char *version;     /* "1.0.0" */
  const char *description; /* one line */
  const char *group;       /* "Image", "Video", "Input", "Output", "Inference", "Generic" */
  const mb_port *inputs;
  uint32_t input_count;
  const mb_port *outputs;
  uint32_t output_count;
  const mb_option *options;
  uint32_t option_count;
  uint32_t default_batch_size; /* 0 = the host's default: 1 for STREAM, 8 for NORMAL */
  uint32_t max_batch_size;     /* 0 = 1 for STREAM, unlimited for NORMAL */

  /* Once per node before the first call; *state is handed to everything else. May be NULL. [node] */
  int32_t (*open)(const mb_host *host, const mb_config *config, void **state);
  /* Once after the last call, only when open() succeeded. May be NULL. [node] */
  void (*close)(const mb_host *host, void *state);
  /* One call. A failure turns the outputs of this call into error buffers "<unit>.ProcessError". */
  int32_t (*process)(const mb_host *host, void *state, mb_call *call);
  /* MB_UNIT_STREAM: before the first and after the last buffer of a stream; both may push (of an expand that does not
   * count). stream_end is called even when the stream was cut short or stream_begin failed, so that stream_state can
   * be freed; its own failure changes nothing. May be NULL. */
  int32_t (*stream_begin)(const mb_host *host, void *state, mb_call *call);
  int32_t (*stream_end)(const mb_host *host, void *state, mb_call *call);
} mb_unit;

/* A type of ports that the plugin adds to the tree under "raw", since minor 1. Several plugins may add the same one
 * below the same parent. An edge joins ports of which one's type is an ancestor of the other's, or the same. */
typedef struct mb_type {
  const char *name;   /* letters, digits, '_', '-' and '.' */
  const char *parent; /* a type that exists, or that this or another plugin adds; NULL = raw */
} mb_type;

typedef struct mb_plugin {
  uint32_t struct_size;
  uint16_t abi_major; /* MB_ABI_MAJOR */
  uint16_t abi_minor; /* MB_ABI_MINOR */
  const char *name;
  const char *version;
  const mb_unit *const *units;
  uint32_t unit_count;
  uint32_t type_count;  /* since minor 1 */
  const mb_type *types; /* since minor 1 */
} mb_plugin;

/* The only symbol that the host looks for. Returns a constant; creates nothing; may be called often. */
MB_EXPORT const mb_plugin *mb_plugin_entry_v1(void);

#ifndef MB_CFFI
#ifdef __cplusplus
}
#endif
#endif

#endif
