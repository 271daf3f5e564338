#include "support.h"

mb_error error;

mb_pool *new_pool(uint64_t max_bytes) {
  mb_pool_config config = {.arena_size = 4 << 20, .max_bytes = max_bytes, .keep_bytes = 4 << 20, .guard_all = 1};
  mb_pool *pool = mb_pool_new(&config, &error);
  CHECK(pool != NULL);
  return pool;
}

uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

int32_t pass(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

const mb_port in_port[1] = {{"in", NULL, NULL}}, out_port[1] = {{"out", NULL, NULL}};
const mb_unit pass_unit = UNIT("pass", pass);

mb_node *open_node(mb_pool *pool, const mb_unit *unit, const char *name, uint32_t batch) {
  mb_node *node = mb_node_open(pool, unit, name, NULL, NULL, 0, batch, &error);
  CHECK(node != NULL);
  return node;
}

mb_list *mixed_list(mb_pool *pool) {
  mb_list *list = mb_list_new(0);
  for (int at = 0; at < 10; at++) {
    mb_buffer *buffer = at == 2   ? mb_buffer_new_error("A.B", "bad")
                        : at == 5 ? NULL
                                  : mb_buffer_new(pool, 10 + at, &error);
    if (buffer != NULL) mb_buffer_seal(buffer);
    CHECK(mb_list_push(list, buffer) == 0);
  }
  return list;
}

pair new_pair(void) {
  pair made = {new_pool(0), new_pool(0), NULL, NULL};
  made.sender = mb_peer_new(made.here, 64, 0, &error);
  made.receiver = mb_peer_new(made.there, 64, 1, &error);
  CHECK(made.sender != NULL && made.receiver != NULL);
  return made;
}

void free_pair(pair *made) {
  mb_peer_free(made->sender);
  mb_peer_free(made->receiver);
  mb_pool_free(made->here);
  mb_pool_free(made->there);
}

mb_list *peer_list(mb_pool *pool) {
  mb_list *list = mixed_list(pool);
  mb_buffer *large = mb_buffer_new(pool, 50000, &error);
  memset(mb_buffer_writable(large), 9, 50000);
  mb__host.meta_set_int(large, "width", 3);
  mb_buffer_seal(large);
  CHECK(mb_list_push(list, large) == 0);
  return list;
}

void give_back(mb_peer *from, mb_peer *to) {
  uint64_t ids[16];
  uint32_t count;
  while ((count = mb_peer_take_done(from, ids, 16)) > 0) CHECK(mb_peer_release(to, ids, count, &error) == 0);
}
