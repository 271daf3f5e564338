/* The baseline of the chain benchmark: eight pass-through units called in a plain C loop over chunks of 32.
 * Prints buffers per second through the whole chain. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "internal.h"

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  mb_error error;
  mb_pool_config config = {0};
  mb_pool *pool = mb_pool_new(&config, &error);
  mb_library *library = mb_library_open(argv[argc - 1], &error);
  if (pool == NULL || library == NULL) return 1;
  const mb_unit *unit = mb_library_plugin(library)->units[0];
  mb_list *source = mb_list_new(32);
  for (int at = 0; at < 32; at++) {
    mb_buffer *buffer = mb_buffer_new(pool, 64, &error);
    mb_buffer_seal(buffer);
    mb_list_push(source, buffer);
  }
  mb_node *nodes[8];
  for (int at = 0; at < 8; at++) nodes[at] = mb_node_open(pool, unit, "n", NULL, NULL, 0, 32, &error);
  long chunks = 0;
  double start = now(), end = start;
  while (end - start < 1.0) {
    for (int round = 0; round < 1000; round++, chunks++) {
      mb_list *current = mb_list_new(32);
      mb_list_extend(current, source, 0, 32);
      for (int at = 0; at < 8; at++) {
        mb_list *next = mb_list_new(32);
        mb_buffer *const *inputs = current->items;
        mb_call call = {nodes[at], &inputs, 32, &next, 1, NULL};
        if (unit->process(&mb__host, nodes[at]->state, &call) != 0 || next->count != 32) return 1;
        mb_list_free(current);
        current = next;
      }
      mb_list_free(current);
    }
    end = now();
  }
  printf("%f\n", (double)chunks * 32 / (end - start));
  return 0;
}
