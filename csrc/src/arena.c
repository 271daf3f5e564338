/* Arenas: sealed memfds, ours (writable here alone) or a peer's (read-only or copy-on-write). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static atomic_uint next_id = 1;

static mb_arena *arena_new(int fd, uint8_t *base, uint64_t size, bool private_map, mb_error *error) {
  mb_arena *arena = calloc(1, sizeof *arena);
  if (arena == NULL) {
    munmap(base, size);
    close(fd);
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  atomic_init(&arena->refs, 1);
  atomic_init(&arena->gone, false);
  arena->id = atomic_fetch_add(&next_id, 1);
  arena->fd = fd;
  arena->base = base;
  arena->size = size;
  arena->private_map = private_map;
  return arena;
}

mb_arena *mb__arena_create(uint64_t size, mb_error *error) {
  int fd = memfd_create("modelbox", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) {
    mb__fail(error, MB_NOMEM, "cannot create shared memory: %s", strerror(errno));
    return NULL;
  }
  if (ftruncate(fd, (off_t)size) != 0) {
    mb__fail(error, MB_NOMEM, "cannot create %llu bytes of shared memory: %s", (unsigned long long)size,
             strerror(errno));
    close(fd);
    return NULL;
  }
  uint8_t *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    mb__fail(error, MB_NOMEM, "cannot map %llu bytes of shared memory: %s", (unsigned long long)size, strerror(errno));
    close(fd);
    return NULL;
  }
  /* After this nobody can shrink it, and only the mapping above can write to it. */
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    mb__fail(error, MB_NOTSUPPORT, "cannot seal shared memory: %s (Linux 5.1 or newer is needed)", strerror(errno));
    munmap(base, size);
    close(fd);
    return NULL;
  }
  return arena_new(fd, base, size, false, error);
}

/* Whether reading the mapping can never fail: a memfd of ordinary pages that nobody can make smaller. One of huge pages
 * can run out of them when it is read, which would be a SIGBUS. */
static bool is_safe(int fd, mb_error *error) {
  struct statfs place;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || fstatfs(fd, &place) != 0 || place.f_type != TMPFS_MAGIC) {
    mb__fail(error, MB_INVALID, "the descriptor offered is no shared memory of ordinary pages");
    return false;
  }
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
  if ((seals & wanted) != wanted || !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))) {
    mb__fail(error, MB_INVALID, "the shared memory offered is not sealed (against shrinking, growing, writing)");
    return false;
  }
  return true;
}

mb_arena *mb__arena_map(int fd, bool private_map, uint64_t max_size, mb_error *error) {
  struct stat status;
  if (!is_safe(fd, error)) return NULL;
  if (fstat(fd, &status) != 0 || status.st_size <= 0 || (uint64_t)status.st_size > max_size) {
    mb__fail(error, MB_INVALID, "the shared memory offered has %lld bytes, allowed are 1 to %llu",
             (long long)status.st_size, (unsigned long long)max_size);
    return NULL;
  }
  uint64_t size = (uint64_t)status.st_size;
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) {
    mb__fail(error, MB_NOBUFS, "cannot keep a descriptor: %s", strerror(errno));
    return NULL;
  }
  int protection = private_map ? PROT_READ | PROT_WRITE : PROT_READ;
  int flags = private_map ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
  uint8_t *base = mmap(NULL, size, protection, flags, own, 0);
  if (base == MAP_FAILED) {
    mb__fail(error, MB_NOMEM, "cannot map %llu bytes of a peer's memory: %s", (unsigned long long)size,
             strerror(errno));
    close(own);
    return NULL;
  }
  return arena_new(own, base, size, private_map, error);
}

mb_arena *mb__arena_ref(mb_arena *arena) {
  atomic_fetch_add_explicit(&arena->refs, 1, memory_order_relaxed);
  return arena;
}

void mb__arena_unref(mb_arena *arena) {
  if (arena == NULL || atomic_fetch_sub_explicit(&arena->refs, 1, memory_order_acq_rel) != 1) return;
  munmap(arena->base, arena->size);
  close(arena->fd);
  if (arena->owner != NULL) mb__arena_gone(arena->owner, arena->size);
  free(arena);
}
