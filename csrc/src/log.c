/* Log lines of native code, error texts, and malloc's tuning. */
#include <malloc.h>
#include <stdio.h>

#include "internal.h"

static _Atomic(void (*)(int32_t, const char *)) log_sink;
static atomic_int log_level = MB_LOG_INFO;

void mb_log_set_level(int32_t level) { atomic_store(&log_level, level); }

void mb_log_set_sink(void (*sink)(int32_t level, const char *message)) { atomic_store(&log_sink, sink); }

void mb__log(int32_t level, const char *format, ...) {
  void (*sink)(int32_t, const char *) = atomic_load(&log_sink);
  if (sink == NULL || level < atomic_load(&log_level)) return;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  sink(level, text);
}

int32_t mb__fail(mb_error *error, int32_t status, const char *format, ...) {
  if (error != NULL) {
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
  }
  return -status;
}

void mb_tune_malloc(void) {
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
}
