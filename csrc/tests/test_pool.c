/* Pool, guards and sealed arenas. */
#include <sys/mman.h>
#include <unistd.h>

#include "support.h"

static int log_lines;

static void count_log(int32_t level, const char *message) {
  (void)level;
  (void)message;
  log_lines++;
}

static void test_pool(void) {
  mb_pool *pool = new_pool(0);
  enum { COUNT = 600 };
  mb_buffer *buffers[COUNT] = {0};
  uint32_t seed = 7;
  for (int round = 0; round < 40000; round++) {
    uint32_t at = next_random(&seed) % COUNT;
    if (buffers[at] != NULL) {
      const uint8_t *bytes = mb_buffer_data(buffers[at]);
      uint64_t size = mb_buffer_size(buffers[at]);
      CHECK(size == 0 || (bytes[0] == (uint8_t)at && bytes[size - 1] == (uint8_t)at));
      mb_buffer_unref(buffers[at]);
      buffers[at] = NULL;
    } else {
      uint32_t pick = next_random(&seed) % 100;
      uint64_t size = pick < 60   ? next_random(&seed) % 300
                      : pick < 95 ? next_random(&seed) % 20000
                                  : next_random(&seed) % 300000;
      buffers[at] = mb_buffer_new(pool, size, &error);
      CHECK(buffers[at] != NULL);
      if (size > 0) {
        CHECK((uintptr_t)mb_buffer_data(buffers[at]) % MB_ALIGN == 0);
        memset(mb_buffer_writable(buffers[at]), (int)at, size);
      }
    }
  }
  for (int at = 0; at < COUNT; at++) mb_buffer_unref(buffers[at]);
  mb_pool_stats stats;
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.live_buffers == 0 && stats.used_bytes == 0 && stats.block_bytes == 0 && stats.guard_faults == 0);
  CHECK(stats.allocations == stats.frees);
  /* Larger than an arena: an arena of its own, which goes when it is empty. */
  mb_buffer *large = mb_buffer_new(pool, 9 << 20, &error);
  CHECK(large != NULL);
  mb_buffer_unref(large);
  mb_pool_trim(pool, 0);
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.arena_bytes <= 8 << 20);
  mb_pool_free(pool);
}

/* What a burst has added runs empty again: blocks come from the oldest arena that has room. */
static void test_oldest_arena_first(void) {
  mb_pool *pool = new_pool(0);
  mb_buffer *full[9];
  for (int at = 0; at < 9; at++) full[at] = mb_buffer_new(pool, 5 << 18, &error); /* three in an arena */
  mb_pool_stats stats;
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.arenas == 3);
  for (int at = 1; at < 9; at++) mb_buffer_unref(full[at]);
  for (int round = 0; round < 3; round++) {
    mb_buffer *one = mb_buffer_new(pool, 5 << 18, &error);
    mb_pool_trim(pool, 0);
    mb_pool_get_stats(pool, &stats);
    CHECK(stats.arenas == 1);
    mb_buffer_unref(one);
  }
  mb_buffer_unref(full[0]);
  mb_pool_trim(pool, 0);
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.arenas == 0 && stats.arena_bytes == 0);
  mb_pool_free(pool);
}

static void test_pool_limits(void) {
  mb_pool *pool = new_pool(8 << 20);
  mb_buffer *one = mb_buffer_new(pool, 3 << 20, &error), *two = mb_buffer_new(pool, 3 << 20, &error);
  CHECK(one != NULL && two != NULL);
  CHECK(mb_buffer_new(pool, 3 << 20, &error) == NULL && error.status == MB_NOMEM);
  mb_buffer_unref(one);
  one = mb_buffer_new(pool, 3 << 20, &error);
  CHECK(one != NULL);
  mb_pool_free(pool); /* buffers outlive the owner's reference */
  memset(mb_buffer_writable(one), 1, 3 << 20);
  mb_buffer_unref(one);
  mb_buffer_unref(two);
}

static void test_guards(void) {
  mb_pool *pool = new_pool(0);
  mb_log_set_sink(count_log);
  mb_buffer *buffer = mb_buffer_new(pool, 100, &error);
  ((uint8_t *)mb_buffer_writable(buffer))[100] ^= 1; /* in the same block, so that sanitizers do not mind */
  mb_buffer_unref(buffer);
  mb_pool_stats stats;
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.guard_faults == 1 && log_lines == 1);
  mb_log_set_sink(NULL);
  mb_pool_free(pool);
}

static void test_arena_is_sealed(void) {
  mb_pool *pool = new_pool(0);
  mb_buffer *buffer = mb_buffer_new(pool, 100000, &error);
  int fd = buffer->data->arena->fd;
  CHECK(ftruncate(fd, 4096) != 0);
  CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  mb_buffer_unref(buffer);
  mb_pool_free(pool);
}

void test_pools(void) {
  test_pool();
  test_oldest_arena_first();
  test_pool_limits();
  test_guards();
  test_arena_is_sealed();
}
