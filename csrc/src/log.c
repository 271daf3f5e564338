/* Log lines of native code, error texts, and malloc's tuning. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

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

static const int crashes[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static int words_from = -1, words_to = -1;

/* Only what a signal handler may do. SA_RESETHAND has put the default action back, which ends the process. */
static void last_words(int number) {
  char text[4096];
  ssize_t count;
  while ((count = read(words_from, text, sizeof text)) > 0) {
    if (write(words_to, text, (size_t)count) < 0) break;
  }
  raise(number);
}

void mb_save_last_words(int32_t from, int32_t to) {
  words_from = from;
  words_to = to;
  struct sigaction action = {.sa_flags = SA_RESETHAND | SA_NODEFER | SA_ONSTACK};
  action.sa_handler = from < 0 ? SIG_DFL : last_words;
  for (size_t at = 0; at < sizeof crashes / sizeof crashes[0]; at++) sigaction(crashes[at], &action, NULL);
}

void mb_trim_malloc(void) { malloc_trim(0); }

void mb_name_thread(const char *name) { prctl(PR_SET_NAME, name); }
