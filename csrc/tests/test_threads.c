/* One segment on several threads. */
#include <pthread.h>

#include "support.h"

static mb_pool *shared_pool;
static mb_segment *shared_segment;

static void *run_thread(void *argument) {
  uint32_t seed = (uint32_t)(uintptr_t)argument;
  mb_error own;
  for (int round = 0; round < 2000; round++) {
    mb_list *in = mb_list_new(0), *out = mb_list_new(0);
    for (int at = 0; at < 8; at++) {
      mb_buffer *buffer = mb_buffer_new(shared_pool, next_random(&seed) % 40000, &own);
      CHECK(buffer != NULL);
      mb__host.meta_set_int(buffer, "at", at);
      mb_buffer_seal(buffer);
      CHECK(mb_list_push(in, buffer) == 0);
    }
    CHECK(mb_segment_run(shared_segment, &in, 1, &out, 1, &own) == 0);
    mb_buffer *twin = mb_buffer_share(out->items[0]);
    CHECK(mb__host.meta_set_int(twin, "at", 99) == 0);
    mb_buffer_unref(twin);
    mb_list_free(in);
    mb_list_free(out);
  }
  return NULL;
}

void test_threads(void) {
  shared_pool = new_pool(0);
  mb_node *nodes[2] = {open_node(shared_pool, &pass_unit, "a", 3), open_node(shared_pool, &pass_unit, "b", 5)};
  shared_segment = mb_segment_new(nodes, 2, &error);
  pthread_t threads[4];
  for (uintptr_t at = 0; at < 4; at++) CHECK(pthread_create(&threads[at], NULL, run_thread, (void *)(at + 1)) == 0);
  for (int at = 0; at < 4; at++) pthread_join(threads[at], NULL);
  mb_node_stats stats;
  mb_node_get_stats(nodes[0], &stats);
  CHECK(stats.buffers_in == 4 * 2000 * 8 && stats.buffers_out == stats.buffers_in);
  mb_segment_free(shared_segment);
  mb_node_close(nodes[0]);
  mb_node_close(nodes[1]);
  mb_pool_free(shared_pool);
}
