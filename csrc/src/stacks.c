/* The native stacks of all threads of this process, on demand: each thread writes its own in a signal handler. */
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core.h"

enum { FRAMES = 64, WAIT_MS = 200, ENTRIES = 4096 };

/* What getdents64(2) fills in; readdir() would allocate, which a signal handler must not. */
typedef struct entry {
  uint64_t inode;
  int64_t next;
  uint16_t size;
  uint8_t type;
  char name[];
} entry;

static pthread_mutex_t one_dump = PTHREAD_MUTEX_INITIALIZER;
static _Atomic long wanted; /* the thread that shall answer; negative: it is about to */
static int write_to;
static sem_t answered;

static void answer(int number) {
  (void)number;
  int saved = errno;
  long self = syscall(SYS_gettid);
  if (atomic_compare_exchange_strong(&wanted, &self, -self)) {
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    /* The first two are this handler and the way into it. */
    if (count > 2) backtrace_symbols_fd(frames + 2, count - 2, write_to);
    sem_post(&answered);
  }
  errno = saved;
}

static void wait_for(long thread) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += WAIT_MS * 1000000L;
  until.tv_sec += until.tv_nsec / 1000000000L;
  until.tv_nsec %= 1000000000L;
  int status;
  while ((status = sem_timedwait(&answered, &until)) != 0 && errno == EINTR) {
  }
  if (status == 0) return;
  long still = thread;
  if (atomic_compare_exchange_strong(&wanted, &still, 0)) {
    dprintf(write_to, "(does not answer: it blocks signals or is inside the kernel)\n");
    return;
  }
  while (sem_wait(&answered) != 0) {
  } /* it has begun to answer a moment ago */
}

static void dump_thread(int32_t fd, long thread, int number) {
  char name[64] = "", path[64];
  snprintf(path, sizeof path, "/proc/self/task/%ld/comm", thread);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file >= 0) {
    ssize_t size = read(file, name, sizeof name - 1);
    name[size > 0 ? size - 1 : 0] = 0; /* without its line break */
    close(file);
  }
  dprintf(fd, "thread %ld %s:\n", thread, name);
  atomic_store(&wanted, thread);
  if (syscall(SYS_tgkill, getpid(), thread, number) == 0) wait_for(thread);
  atomic_store(&wanted, 0);
}

static void dump_threads(int32_t fd, int number) {
  _Alignas(entry) char entries[ENTRIES];
  int tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (tasks < 0) return;
  long size;
  while ((size = syscall(SYS_getdents64, tasks, entries, sizeof entries)) > 0) {
    for (long at = 0; at < size; at += ((entry *)(entries + at))->size) {
      long thread = atol(((entry *)(entries + at))->name);
      if (thread > 0) dump_thread(fd, thread, number);
    }
  }
  close(tasks);
}

/* With `one_dump` held. Calls nothing that a signal handler must not, but for formatted output of words and numbers. */
static int32_t dump(int32_t fd) {
  write_to = fd;
  sem_init(&answered, 0, 0);
  int number = SIGRTMAX - 3;
  struct sigaction action, before;
  memset(&action, 0, sizeof action);
  action.sa_handler = answer;
  action.sa_flags = SA_RESTART;
  sigaction(number, &action, &before);
  if (before.sa_handler != SIG_DFL && before.sa_handler != answer) { /* a library uses it: better no stacks */
    sigaction(number, &before, NULL);
    return -MB_BUSY;
  }
  dump_threads(fd, number);
  sem_destroy(&answered);
  /* The handler stays: a thread that blocked the signal gets it later, and must not die of it. */
  return 0;
}

static void load(void) {
  void *first[1];
  backtrace(first, 1); /* loads what backtrace() needs, which a signal handler must not */
}

int32_t mb_stacks_dump(int32_t fd) {
  load();
  pthread_mutex_lock(&one_dump);
  int32_t status = dump(fd);
  pthread_mutex_unlock(&one_dump);
  return status;
}

static _Atomic int32_t asked_fd = -1;
static void (*asked_before)(int number); /* who had the signal before, such as Python's fault handler */

static void asked(int number) {
  int saved = errno;
  int32_t fd = asked_fd;
  if (asked_before != NULL) asked_before(number);
  if (pthread_mutex_trylock(&one_dump) == 0) { /* else this signal interrupts a dump: that one is as good */
    if (dump(fd) != 0) dprintf(fd, "(a library of this process uses the signal that asks threads for them)\n");
    dprintf(fd, "end of stacks\n");
    pthread_mutex_unlock(&one_dump);
  }
  errno = saved;
}

int32_t mb_stacks_on_signal(int32_t number, int32_t fd) {
  load();
  asked_fd = fd;
  struct sigaction action, before;
  if (sigaction(number, NULL, &before) != 0) return -MB_INVALID;
  if (before.sa_handler == asked) return 0;
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) asked_before = before.sa_handler;
  memset(&action, 0, sizeof action);
  action.sa_handler = asked;
  action.sa_flags = SA_RESTART; /* what the threads do goes on as if nothing had been */
  return sigaction(number, &action, NULL) == 0 ? 0 : -MB_INVALID;
}
