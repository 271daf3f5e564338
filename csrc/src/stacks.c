/* The native stacks of all threads of this process, on demand: each thread writes its own in a signal handler. */
#include <dirent.h>
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

enum { FRAMES = 64, WAIT_MS = 200 };

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

int32_t mb_stacks_dump(int32_t fd) {
  pthread_mutex_lock(&one_dump);
  void *first[1];
  backtrace(first, 1); /* loads what backtrace() needs, which a signal handler must not */
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
    pthread_mutex_unlock(&one_dump);
    return -MB_BUSY;
  }
  DIR *tasks = opendir("/proc/self/task");
  struct dirent *entry;
  while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
    long thread = atol(entry->d_name);
    if (thread <= 0) continue;
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
  if (tasks != NULL) closedir(tasks);
  sem_destroy(&answered);
  /* The handler stays: a thread that blocked the signal gets it later, and must not die of it. */
  pthread_mutex_unlock(&one_dump);
  return 0;
}
