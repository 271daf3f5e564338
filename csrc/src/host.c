/* The host table that plugins call, and one node's options while it is opened. */
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#include "internal.h"
#include "node.h"

#define MAX_EVENTS 8192u /* of one context */

static _Thread_local char error_text[MB_ERROR_SIZE];
static _Thread_local bool error_set;

const char *mb__take_error(void) {
  bool was_set = error_set;
  error_set = false;
  return was_set ? error_text : NULL;
}

void mb__clear_error(void) { error_set = false; }

static void set_text(const char *text) {
  snprintf(error_text, sizeof error_text, "%s", text);
  error_set = true;
}

static mb_buffer *host_buffer_new(mb_call *call, uint64_t size) {
  mb_error error;
  mb_buffer *buffer = mb__buffer_alloc(call->node->pool, size, call->node->account, &error);
  if (buffer == NULL) set_text(error.message);
  return buffer;
}

static void *host_writable(mb_buffer *buffer) { return mb_buffer_writable(buffer); }

/* ---- meta ------------------------------------------------------------------------------------------ */

static int32_t typed(const mb_buffer *buffer, const char *key, int32_t type, const uint8_t **value, uint64_t *size) {
  int32_t found = mb__meta_get(buffer->meta, key, value, size);
  if (found < 0) return found;
  return found == type ? 0 : -MB_INVALID;
}

static int32_t get_int(const mb_buffer *buffer, const char *key, int64_t *result) {
  const uint8_t *value;
  uint64_t size;
  int32_t status = typed(buffer, key, MB_META_INT, &value, &size);
  if (status == 0) memcpy(result, value, sizeof *result);
  return status;
}

static int32_t get_double(const mb_buffer *buffer, const char *key, double *result) {
  const uint8_t *value;
  uint64_t size;
  int32_t status = typed(buffer, key, MB_META_DOUBLE, &value, &size);
  if (status == 0) {
    memcpy(result, value, sizeof *result);
  } else if (status == -MB_INVALID) {
    int64_t number;
    status = get_int(buffer, key, &number);
    if (status == 0) *result = (double)number;
  }
  return status;
}

static int32_t get_bool(const mb_buffer *buffer, const char *key, int32_t *result) {
  const uint8_t *value;
  uint64_t size;
  int32_t status = typed(buffer, key, MB_META_BOOL, &value, &size);
  if (status == 0) *result = value[0];
  return status;
}

static int32_t get_string(const mb_buffer *buffer, const char *key, const char **result, uint64_t *length) {
  const uint8_t *value;
  uint64_t size;
  int32_t status = typed(buffer, key, MB_META_STRING, &value, &size);
  if (status == 0) {
    *result = (const char *)value; /* padded with at least one zero byte */
    if (length != NULL) *length = size;
  }
  return status;
}

static int32_t get_words(const mb_buffer *buffer, const char *key, int32_t type, const void **values, uint32_t *count) {
  const uint8_t *value;
  uint64_t size;
  int32_t status = typed(buffer, key, type, &value, &size);
  if (status == 0) {
    *values = value;
    *count = (uint32_t)(size / 8);
  }
  return status;
}

static int32_t get_ints(const mb_buffer *buffer, const char *key, const int64_t **values, uint32_t *count) {
  const void *words = NULL;
  int32_t status = get_words(buffer, key, MB_META_INTS, &words, count);
  *values = words;
  return status;
}

static int32_t get_doubles(const mb_buffer *buffer, const char *key, const double **values, uint32_t *count) {
  const void *words = NULL;
  int32_t status = get_words(buffer, key, MB_META_DOUBLES, &words, count);
  *values = words;
  return status;
}

static int32_t get_dtype(const mb_buffer *buffer, const char *key, int32_t *dtype) {
  const uint8_t *value;
  uint64_t size;
  int64_t number = 0;
  int32_t status = typed(buffer, key, MB_META_DTYPE, &value, &size);
  if (status == 0) {
    memcpy(&number, value, sizeof number);
    *dtype = (int32_t)number;
  }
  return status;
}

static int32_t set_value(mb_buffer *buffer, const char *key, int32_t type, const void *value, uint64_t size) {
  return mb_buffer_meta_set(buffer, key, type, value, size);
}

static int32_t set_int(mb_buffer *buffer, const char *key, int64_t value) {
  return set_value(buffer, key, MB_META_INT, &value, sizeof value);
}

static int32_t set_double(mb_buffer *buffer, const char *key, double value) {
  return set_value(buffer, key, MB_META_DOUBLE, &value, sizeof value);
}

static int32_t set_bool(mb_buffer *buffer, const char *key, int32_t value) {
  uint64_t word = value != 0;
  return set_value(buffer, key, MB_META_BOOL, &word, sizeof word);
}

static int32_t set_string(mb_buffer *buffer, const char *key, const char *value) {
  return set_value(buffer, key, MB_META_STRING, value, strlen(value));
}

static int32_t set_ints(mb_buffer *buffer, const char *key, const int64_t *values, uint32_t count) {
  return set_value(buffer, key, MB_META_INTS, values, (uint64_t)count * 8);
}

static int32_t set_doubles(mb_buffer *buffer, const char *key, const double *values, uint32_t count) {
  return set_value(buffer, key, MB_META_DOUBLES, values, (uint64_t)count * 8);
}

static int32_t set_dtype(mb_buffer *buffer, const char *key, int32_t dtype) {
  int64_t number = dtype;
  return set_value(buffer, key, MB_META_DTYPE, &number, sizeof number);
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static mb_buffer *const *inputs(mb_call *call, uint32_t port, uint32_t *count) {
  if (port >= call->node->unit->input_count) {
    *count = 0;
    return NULL;
  }
  *count = call->count;
  return call->inputs[port];
}

static int32_t push(mb_call *call, uint32_t port, mb_buffer *buffer) {
  if (buffer == NULL) return -MB_INVALID;
  if (port >= call->output_count) {
    mb_buffer_unref(buffer);
    set_text("a buffer was pushed to an output port that the unit does not have");
    return -MB_RANGE;
  }
  if (call->outputs == NULL) { /* nobody wants them: the stream was cut short */
    mb_buffer_unref(buffer);
    return 0;
  }
  buffer->sealed = true;
  mb__born(buffer, call->node->out_depth);
  return mb_list_push(call->outputs[port], buffer);
}

static int32_t push_error(mb_call *call, uint32_t port, const char *code, const char *message) {
  mb_buffer *buffer = mb_buffer_new_error(code, message);
  if (buffer == NULL) return -MB_NOMEM;
  atomic_fetch_add(&call->node->errors, 1);
  return push(call, port, buffer);
}

static void set_error(mb_call *call, const char *message) {
  (void)call;
  set_text(message);
}

static void **stream_state(mb_call *call) { return call->stream_state; }

static int32_t send_event(mb_call *call) {
  if (call->events == NULL) return -MB_NOTSUPPORT;
  if (*call->events >= MAX_EVENTS) {
    set_text("more than 8192 events of one stream wait");
    return -MB_NOBUFS;
  }
  ++*call->events;
  return 0;
}

static int32_t is_event(const mb_call *call) { return call->is_event; }

/* ---- options -------------------------------------------------------------------------------------------- */

static const char *find_option(const mb_config *config, const char *key) {
  for (uint32_t at = 0; at < config->count; at++) {
    if (strcmp(config->keys[at], key) == 0) return config->values[at];
  }
  return NULL;
}

static int32_t bad_option(const char *key, const char *text, const char *wanted) {
  char message[MB_ERROR_SIZE];
  snprintf(message, sizeof message, "option %s = \"%s\" is not %s", key, text, wanted);
  set_text(message);
  return -MB_BADCONF;
}

static int32_t config_has(const mb_config *config, const char *key) { return find_option(config, key) != NULL; }

static const char *config_string(const mb_config *config, const char *key, const char *fallback) {
  const char *text = find_option(config, key);
  return text != NULL ? text : fallback;
}

static int32_t config_int(const mb_config *config, const char *key, int64_t fallback, int64_t *value) {
  const char *text = find_option(config, key);
  *value = fallback;
  if (text == NULL) return 0;
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0) return bad_option(key, text, "a whole number");
  *value = number;
  return 0;
}

static int32_t config_double(const mb_config *config, const char *key, double fallback, double *value) {
  const char *text = find_option(config, key);
  *value = fallback;
  if (text == NULL) return 0;
  char *end;
  double number = strtod(text, &end);
  if (end == text || *end != '\0') return bad_option(key, text, "a number");
  *value = number;
  return 0;
}

static int32_t config_bool(const mb_config *config, const char *key, int32_t fallback, int32_t *value) {
  const char *text = find_option(config, key);
  *value = fallback;
  if (text == NULL) return 0;
  if (strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0) {
    *value = 1;
  } else if (strcasecmp(text, "false") == 0 || strcmp(text, "0") == 0) {
    *value = 0;
  } else {
    return bad_option(key, text, "true or false");
  }
  return 0;
}

static int32_t config_doubles(const mb_config *config, const char *key, double *values, uint32_t capacity,
                              uint32_t *count) {
  const char *text = find_option(config, key);
  *count = 0;
  if (text == NULL) return 0;
  const char *at = text;
  while (true) {
    char *end;
    double number = strtod(at, &end);
    while (*end == ' ') end++;
    if (end == at || (*end != '\0' && *end != ','))
      return bad_option(key, text, "a list of numbers separated by commas");
    if (*count == capacity) return bad_option(key, text, "a list as short as it must be");
    values[(*count)++] = number;
    if (*end == '\0') return 0;
    at = end + 1;
  }
}

static void log_line(int32_t level, const char *message) { mb__log(level, "%s", message); }

static const void *get_extension(const char *id) {
  (void)id;
  return NULL;
}

const mb_host mb__host = {
    .struct_size = sizeof(mb_host),
    .abi_major = MB_ABI_MAJOR,
    .abi_minor = MB_ABI_MINOR,
    .buffer_new = host_buffer_new,
    .buffer_share = mb_buffer_share,
    .buffer_ref = mb_buffer_ref,
    .buffer_unref = mb_buffer_unref,
    .buffer_data = mb_buffer_data,
    .buffer_writable = host_writable,
    .buffer_size = mb_buffer_size,
    .buffer_truncate = mb_buffer_truncate,
    .buffer_kind = mb_buffer_kind,
    .buffer_set_kind = mb_buffer_set_kind,
    .buffer_error = mb_buffer_error,
    .meta_get_int = get_int,
    .meta_get_double = get_double,
    .meta_get_bool = get_bool,
    .meta_get_string = get_string,
    .meta_get_ints = get_ints,
    .meta_get_doubles = get_doubles,
    .meta_get_dtype = get_dtype,
    .meta_set_int = set_int,
    .meta_set_double = set_double,
    .meta_set_bool = set_bool,
    .meta_set_string = set_string,
    .meta_set_ints = set_ints,
    .meta_set_doubles = set_doubles,
    .meta_set_dtype = set_dtype,
    .meta_copy = mb_buffer_meta_copy,
    .inputs = inputs,
    .push = push,
    .push_error = push_error,
    .set_error = set_error,
    .stream_state = stream_state,
    .config_has = config_has,
    .config_string = config_string,
    .config_int = config_int,
    .config_double = config_double,
    .config_bool = config_bool,
    .config_doubles = config_doubles,
    .log = log_line,
    .get_extension = get_extension,
    .send_event = send_event,
    .is_event = is_event,
};
