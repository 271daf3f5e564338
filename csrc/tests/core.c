/* Tests of the C core, built under sanitizers: `core` runs everything, `core threads` what runs on several threads. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"

static mb_error error;
static int log_lines;

static void count_log(int32_t level, const char *message) {
  (void)level;
  (void)message;
  log_lines++;
}

static mb_pool *new_pool(uint64_t max_bytes) {
  mb_pool_config config = {.arena_size = 4 << 20, .max_bytes = max_bytes, .keep_bytes = 4 << 20, .guard_all = 1};
  mb_pool *pool = mb_pool_new(&config, &error);
  CHECK(pool != NULL);
  return pool;
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* ---- pool ------------------------------------------------------------------------------------------ */

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
  mb_pool_trim(pool);
  mb_pool_get_stats(pool, &stats);
  CHECK(stats.arena_bytes <= 8 << 20);
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

/* ---- meta -------------------------------------------------------------------------------------------- */

static void test_meta(void) {
  mb_pool *pool = new_pool(0);
  mb_buffer *buffer = mb_buffer_new(pool, 8, &error);
  int64_t number = 5, other = 0;
  const int64_t shape[] = {1, 2, 3};
  CHECK(mb__host.meta_set_int(buffer, "width", number) == 0);
  CHECK(mb__host.meta_set_string(buffer, "pix_fmt", "bgr") == 0);
  CHECK(mb__host.meta_set_ints(buffer, "shape", shape, 3) == 0);
  CHECK(mb__host.meta_set_string(buffer, "pix_fmt", "a longer value than before") == 0);
  CHECK(mb__host.meta_get_int(buffer, "width", &other) == 0 && other == 5);
  const char *text;
  uint64_t size;
  CHECK(mb__host.meta_get_string(buffer, "pix_fmt", &text, &size) == 0 &&
        strcmp(text, "a longer value than before") == 0);
  const int64_t *values;
  uint32_t count;
  CHECK(mb__host.meta_get_ints(buffer, "shape", &values, &count) == 0 && count == 3 && values[2] == 3);
  CHECK(mb__host.meta_get_int(buffer, "pix_fmt", &other) == -MB_INVALID);
  CHECK(mb__host.meta_get_int(buffer, "none", &other) == -MB_NOTFOUND);
  double real;
  CHECK(mb__host.meta_get_double(buffer, "width", &real) == 0 && real == 5.0);
  /* A shared buffer's meta is its own. */
  mb_buffer *twin = mb_buffer_share(buffer);
  CHECK(mb__host.meta_set_int(twin, "width", 9) == 0);
  CHECK(mb__host.meta_get_int(buffer, "width", &other) == 0 && other == 5);
  /* meta_copy adds what is missing and overrides nothing. */
  mb_buffer *third = mb_buffer_new(pool, 0, &error);
  CHECK(mb__host.meta_set_int(third, "width", 1) == 0 && mb_buffer_meta_copy(third, buffer) == 0);
  CHECK(mb__host.meta_get_int(third, "width", &other) == 0 && other == 1);
  CHECK(mb__host.meta_get_ints(third, "shape", &values, &count) == 0);
  mb_buffer_seal(buffer);
  CHECK(mb__host.meta_set_int(buffer, "width", 7) == -MB_PERMIT);
  const uint8_t *block = mb_buffer_meta(buffer, &size);
  CHECK(mb_meta_check(block, size) == 0);
  mb_buffer_unref(buffer);
  mb_buffer_unref(twin);
  mb_buffer_unref(third);
  mb_pool_free(pool);
}

/* Damaged blocks: the check must neither crash nor accept what later reading would trip over. */
static void test_meta_fuzz(void) {
  mb_pool *pool = new_pool(0);
  mb_buffer *buffer = mb_buffer_new(pool, 0, &error);
  mb__host.meta_set_int(buffer, "width", 5);
  mb__host.meta_set_string(buffer, "text", "some words");
  const double reals[] = {1, 2};
  mb__host.meta_set_doubles(buffer, "reals", reals, 2);
  uint64_t size;
  const uint8_t *block = mb_buffer_meta(buffer, &size);
  uint32_t seed = 3;
  uint32_t accepted = 0;
  for (int round = 0; round < 200000; round++) {
    uint64_t cut = next_random(&seed) % 4 == 0 ? next_random(&seed) % (size + 1) : size;
    uint8_t *copy = malloc(cut > 0 ? cut : 1); /* an exact block: reading beyond it is found */
    memcpy(copy, block, cut);
    for (uint32_t flips = next_random(&seed) % 4; flips > 0 && cut > 0; flips--)
      copy[next_random(&seed) % cut] = (uint8_t)next_random(&seed);
    if (mb_meta_check(copy, cut) == 0) {
      mb_buffer *other = mb_buffer_new(pool, 0, &error);
      CHECK(mb_buffer_set_meta(other, copy, cut) == 0);
      CHECK(mb__host.meta_set_string(other, "more", "x") == 0);
      mb_buffer_unref(other);
      accepted++;
    }
    free(copy);
  }
  CHECK(accepted > 1000);
  mb_buffer_unref(buffer);
  mb_pool_free(pool);
}

/* ---- units ---------------------------------------------------------------------------------------------- */

static int32_t pass(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

static int32_t lose_one(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 1; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

static int32_t refuse(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  host->set_error(call, "not today");
  return -MB_FAULT;
}

static int32_t twice(const mb_host *host, void *state, mb_call *call) {
  pass(host, state, call);
  return pass(host, state, call);
}

static int32_t stream_end(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  free(*host->stream_state(call));
  *host->stream_state(call) = NULL;
  return 0;
}

static int32_t stream_begin(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  *host->stream_state(call) = malloc(16);
  return 0;
}

static const mb_port in_port[] = {{"in", NULL, NULL}}, out_port[] = {{"out", NULL, NULL}};

#define UNIT(name, process)                                                                                        \
  {                                                                                                                \
    sizeof(mb_unit), 0, name, "cpu", "1.0.0", name, "Generic", in_port, 1, out_port, 1, NULL, 0, 0, 0, NULL, NULL, \
        process, NULL, NULL                                                                                        \
  }

static const mb_unit pass_unit = UNIT("pass", pass), lose_unit = UNIT("lose", lose_one),
                     refuse_unit = UNIT("refuse", refuse);
static const mb_unit twice_unit = {sizeof(mb_unit),
                                   MB_UNIT_STREAM,
                                   "twice",
                                   "cpu",
                                   "1.0.0",
                                   "twice",
                                   "Generic",
                                   in_port,
                                   1,
                                   out_port,
                                   1,
                                   NULL,
                                   0,
                                   0,
                                   0,
                                   NULL,
                                   NULL,
                                   twice,
                                   stream_begin,
                                   stream_end};

static mb_node *open_node(mb_pool *pool, const mb_unit *unit, const char *name, uint32_t batch) {
  mb_node *node = mb_node_open(pool, unit, name, NULL, NULL, 0, batch, &error);
  CHECK(node != NULL);
  return node;
}

/* Ten buffers, an error in place 2 and a placeholder in place 5. */
static mb_list *mixed_list(mb_pool *pool) {
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

static void test_segment(void) {
  mb_pool *pool = new_pool(0);
  mb_node *nodes[3] = {open_node(pool, &pass_unit, "a", 3), open_node(pool, &pass_unit, "b", 4),
                       open_node(pool, &pass_unit, "c", 1)};
  mb_segment *segment = mb_segment_new(nodes, 3, &error);
  CHECK(segment != NULL);
  mb_list *in = mixed_list(pool), *out = mb_list_new(0);
  CHECK(mb_segment_run(segment, &in, 1, &out, 1, &error) == 0);
  CHECK(out->count == 10);
  for (uint32_t at = 0; at < 10; at++) CHECK(out->items[at] == in->items[at]);
  mb_list_free(out);
  mb_segment_free(segment);
  /* A unit that fails or miscounts answers with errors of the same count; good neighbours are not touched. */
  const mb_unit *bad[] = {&lose_unit, &refuse_unit};
  for (int which = 0; which < 2; which++) {
    mb_node *node = open_node(pool, bad[which], "bad", 4);
    segment = mb_segment_new(&node, 1, &error);
    out = mb_list_new(0);
    CHECK(mb_segment_run(segment, &in, 1, &out, 1, &error) == 0);
    CHECK(out->count == 10 && out->items[5] == NULL && mb_list_errors(out, 0, 10) == 9);
    const char *code, *message;
    CHECK(mb_buffer_error(out->items[0], &code, &message));
    CHECK(strstr(code, which == 0 ? ".WrongOutput" : ".ProcessError") != NULL);
    CHECK(strstr(message, "node 'bad'") == message);
    CHECK(mb_list_fatal(out, 0, 10) == (which == 0 ? 0 : -1) && mb_list_fatal(out, 5, 1) == -1);
    CHECK(mb_buffer_error(out->items[2], &code, &message) && strcmp(code, "A.B") == 0);
    mb_list_free(out);
    mb_segment_free(segment);
    mb_node_close(node);
  }
  mb_list_free(in);
  for (int at = 0; at < 3; at++) mb_node_close(nodes[at]);
  mb_pool_free(pool);
}

static void test_stream(void) {
  mb_pool *pool = new_pool(0);
  mb_node *node = open_node(pool, &twice_unit, "s", 1);
  mb_list *in = mixed_list(pool), *out = mb_list_new(0);
  mb_stream *stream = mb_stream_begin(node, 1, &out, 1, &error);
  CHECK(stream != NULL && mb_stream_run(stream, &in, 1, &out, 1, &error) == 0);
  CHECK(out->count == 2 * 8 + 2); /* errors and placeholders pass once */
  CHECK(mb_stream_end(stream, NULL, 1, &error) == 0);
  mb_list_free(in);
  mb_list_free(out);
  mb_node_close(node);
  mb_pool_free(pool);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static void test_lists(void) {
  mb_pool *pool = new_pool(0);
  mb_list *list = mixed_list(pool);
  mb_list *kept = mb_list_new(0), *merged = mb_list_new(0);
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 0) == 2 && mb_lists_split(&list, 1, 0, &kept) == 0 && kept->count == 8);
  uint32_t next = 0;
  CHECK(mb_lists_merge(&list, 1, 0, 10, 0, kept, &next, merged) == 0 && next == 8);
  for (uint32_t at = 0; at < 10; at++) CHECK(merged->items[at] == list->items[at]);
  CHECK(mb_lists_merge(&list, 1, 0, 10, 0, kept, &next, merged) == -MB_RANGE);
  CHECK(mb_lists_run(&list, 1, 0, 0) == 2 && mb_lists_run(&list, 1, 2, 0) == 1 && mb_lists_run(&list, 1, 10, 0) == 0);
  /* An error is seen by units at its depth and further out. */
  mb_list_born(list, 0, 2);
  mb_list_born(list, 0, 7); /* it keeps its depth */
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 3) == 1 && mb_lists_unseen(&list, 1, 0, 10, 1) == 1);
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 4) == 2 && mb_buffer_born(list->items[2]) == 3);
  uint32_t port = 9;
  mb_list *both[2] = {list, kept}; /* kept[2] is good, list[2] is the error; list[5] is a hole */
  CHECK(mb_lists_kind(both, 2, 2, 0, &port) == MB_ERROR && port == 0);
  mb_list *turned[2] = {kept, list};
  CHECK(mb_lists_kind(turned, 2, 5, 0, &port) == MB_HOLE && port == 1);
  /* Where branches meet: one value per position. */
  mb_list *left = mb_list_new(0), *right = mb_list_new(0), *met = mb_list_new(0), *lanes[2] = {left, right};
  for (uint32_t at = 0; at < 4; at++) {
    mb_list_push(left, at == 1 ? mb_buffer_ref(list->items[0]) : NULL);
    mb_list_push(right, at == 1 || at == 3 ? NULL : mb_buffer_ref(list->items[at]));
  }
  CHECK(mb_lists_choose(lanes, 2, met, &port) == 0 && met->count == 4 && met->items[3] == NULL);
  CHECK(met->items[1] == list->items[0] && met->items[2] == list->items[2]);
  mb_buffer_unref(left->items[2]);
  left->items[2] = mb_buffer_ref(list->items[4]);
  CHECK(mb_lists_choose(lanes, 2, met, &port) == -MB_EXIST && port == 2);
  mb_list_free(left);
  mb_list_free(right);
  mb_list_free(met);
  mb_list *head = mb_list_take(list, 4);
  CHECK(head->count == 4 && list->count == 6 && list->items[1] == NULL);
  CHECK(mb_list_extend(head, list, 5, 2) == -MB_RANGE && mb_list_extend(head, list, UINT32_MAX, 1) == -MB_RANGE);
  mb_list_free(list);
  mb_list_free(kept);
  mb_list_free(merged);
  mb_list_free(head);
  mb_pool_free(pool);
}

/* ---- peers ------------------------------------------------------------------------------------------------ */

typedef struct pair {
  mb_pool *here, *there;
  mb_peer *sender, *receiver;
} pair;

static pair new_pair(void) {
  pair made = {new_pool(0), new_pool(0), NULL, NULL};
  made.sender = mb_peer_new(made.here, 64, 0, &error);
  made.receiver = mb_peer_new(made.there, 64, 1, &error);
  CHECK(made.sender != NULL && made.receiver != NULL);
  return made;
}

static void free_pair(pair *made) {
  mb_peer_free(made->sender);
  mb_peer_free(made->receiver);
  mb_pool_free(made->here);
  mb_pool_free(made->there);
}

static uint64_t encode(pair *link, mb_list *list, uint8_t *out, uint64_t capacity) {
  uint64_t used = 0;
  CHECK(mb_peer_encode(link->sender, list, 0, list->count, out, capacity, &used, &error) == (int32_t)list->count);
  uint32_t ids[8];
  int32_t fds[8];
  uint32_t count = mb_peer_take_fds(link->sender, ids, fds, 8);
  for (uint32_t at = 0; at < count; at++) CHECK(mb_peer_map(link->receiver, ids[at], fds[at], 1 << 30, &error) == 0);
  return used;
}

static mb_list *peer_list(mb_pool *pool) {
  mb_list *list = mixed_list(pool);
  mb_buffer *large = mb_buffer_new(pool, 50000, &error);
  memset(mb_buffer_writable(large), 9, 50000);
  mb__host.meta_set_int(large, "width", 3);
  mb_buffer_seal(large);
  CHECK(mb_list_push(list, large) == 0);
  return list;
}

static void give_back(mb_peer *from, mb_peer *to) {
  uint64_t ids[16];
  uint32_t count;
  while ((count = mb_peer_take_done(from, ids, 16)) > 0) CHECK(mb_peer_release(to, ids, count, &error) == 0);
}

static void test_peers(void) {
  pair link = new_pair();
  mb_list *list = peer_list(link.here), *got = mb_list_new(0);
  uint8_t wire[8192];
  uint64_t size = encode(&link, list, wire, sizeof wire), used = 0;
  CHECK(mb_peer_decode(link.receiver, wire, size, &used, 11, got, &error) == 0 && used == size);
  CHECK(got->count == 11 && got->items[5] == NULL && mb_buffer_is_remote(got->items[10]));
  int64_t width;
  CHECK(mb__host.meta_get_int(got->items[10], "width", &width) == 0 && width == 3);
  /* Writing into the private view is seen here only, and not by the next reader of that memory. */
  uint8_t *view = mb_buffer_scribble(got->items[10]);
  CHECK(view != NULL && view[0] == 9);
  memset(view, 1, 50000);
  CHECK(((const uint8_t *)mb_buffer_data(list->items[10]))[0] == 9);
  /* It goes back by reference. */
  mb_list *home = mb_list_new(0);
  uint8_t answer[8192];
  uint64_t answer_size = 0;
  CHECK(mb_peer_encode(link.receiver, got, 10, 1, answer, sizeof answer, &answer_size, &error) == 1);
  used = 0;
  CHECK(mb_peer_decode(link.sender, answer, answer_size, &used, 1, home, &error) == 0);
  CHECK(mb_buffer_data(home->items[0]) == mb_buffer_data(list->items[10]));
  mb_list_free(got);
  give_back(link.receiver, link.sender);
  uint64_t buffers, bytes;
  mb_peer_lent(link.sender, &buffers, &bytes);
  CHECK(buffers == 0 && bytes == 0);
  got = mb_list_new(0);
  size = encode(&link, list, wire, sizeof wire);
  used = 0;
  CHECK(mb_peer_decode(link.receiver, wire, size, &used, 11, got, &error) == 0);
  CHECK(((const uint8_t *)mb_buffer_data(got->items[10]))[0] == 9);
  uint64_t stale = 0;
  CHECK(mb_peer_release(link.sender, &stale, 1, &error) == -MB_INVALID);
  mb_list_free(list);
  mb_list_free(home);
  free_pair(&link); /* buffers of the receiver outlive both ends */
  CHECK(((const uint8_t *)mb_buffer_data(got->items[10]))[0] == 9);
  mb_list_free(got);
}

static void test_peer_refuses_unsealed(void) {
  pair link = new_pair();
  int fd = memfd_create("open", MFD_CLOEXEC);
  CHECK(ftruncate(fd, 1 << 20) == 0);
  CHECK(mb_peer_map(link.receiver, 1, fd, 1 << 30, &error) == -MB_INVALID);
  close(fd);
  fd = open("/dev/null", O_RDONLY);
  CHECK(mb_peer_map(link.receiver, 1, fd, 1 << 30, &error) == -MB_INVALID);
  close(fd);
  free_pair(&link);
}

/* Damaged messages: an error or a harmless result, never a crash or a read outside. */
static void test_peer_fuzz(void) {
  pair link = new_pair();
  mb_list *list = peer_list(link.here);
  uint8_t wire[8192];
  uint64_t size = encode(&link, list, wire, sizeof wire);
  uint32_t seed = 11, accepted = 0;
  for (int round = 0; round < 100000; round++) {
    uint64_t cut = next_random(&seed) % 4 == 0 ? next_random(&seed) % (size / 8 + 1) * 8 : size;
    uint8_t *copy = malloc(cut > 0 ? cut : 1);
    memcpy(copy, wire, cut);
    for (uint32_t flips = next_random(&seed) % 5; flips > 0 && cut > 0; flips--) {
      copy[next_random(&seed) % cut] = next_random(&seed) % 3 == 0 ? 0xff : (uint8_t)next_random(&seed);
    }
    uint64_t used = 0;
    mb_list *got = mb_list_new(0);
    if (mb_peer_decode(link.receiver, copy, cut, &used, 11, got, &error) == 0) {
      volatile uint8_t sum = 0;
      for (uint32_t at = 0; at < got->count; at++) {
        if (got->items[at] == NULL || mb_buffer_size(got->items[at]) == 0) continue;
        const uint8_t *bytes = mb_buffer_data(got->items[at]);
        sum = (uint8_t)(sum + bytes[0] + bytes[mb_buffer_size(got->items[at]) - 1]);
      }
      accepted++;
    } else {
      CHECK(got->count == 0);
    }
    mb_list_free(got);
    uint64_t ids[16];
    while (mb_peer_take_done(link.receiver, ids, 16) > 0) {
    }
    free(copy);
  }
  CHECK(accepted > 1000);
  mb_list_free(list);
  free_pair(&link);
}

/* ---- messages --------------------------------------------------------------------------------------------- */

#define LIMIT 16384u
#define BODY_LIMIT (1u << 20)

static uint64_t lent_to(mb_peer *peer) {
  uint64_t buffers, bytes;
  mb_peer_lent(peer, &buffers, &bytes);
  return buffers;
}

static void share_arenas(pair *link) {
  uint32_t ids[8];
  int32_t fds[8];
  uint32_t count = mb_peer_take_fds(link->sender, ids, fds, 8);
  for (uint32_t at = 0; at < count; at++) CHECK(mb_peer_map(link->receiver, ids[at], fds[at], 1 << 30, &error) == 0);
}

/* Two results: an error text without ports, and a port with stream meta and `list`. */
static void write_results(mb_writer *writer, const mb_list *list, const uint8_t *meta, uint32_t meta_size) {
  mb_result_head failed = {.flags = 1, .status = 3, .text_size = 5}, good = {.ports = 1};
  mb_writer_begin(writer);
  CHECK(mb_writer_result(writer, &failed, "wrong", &error) == 0);
  CHECK(mb_writer_result(writer, &good, NULL, &error) == 0);
  CHECK(mb_writer_port(writer, list, meta, meta_size, &error) == 0);
}

/* Reads what write_results() wrote, or a damaged copy; how far it came. */
static int read_results(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint32_t released, mb_list *list) {
  uint64_t used = MB_MESSAGE_HEADER;
  mb_result_head head;
  const char *text;
  const uint8_t *meta;
  uint32_t meta_size;
  volatile uint8_t sum = 0;
  for (int at = 0; at < 2; at++) {
    if (mb_read_result(bytes, size, &used, &head, &text, &error) != 0) return at;
    for (uint32_t byte = 0; byte < head.text_size; byte++) sum = (uint8_t)(sum + (uint8_t)text[byte]);
    for (uint32_t port = 0; port < head.ports; port++) {
      if (mb_read_port(peer, bytes, size, &used, list, &meta, &meta_size, &error) != 0) return at;
      for (uint32_t byte = 0; byte < meta_size; byte++) sum = (uint8_t)(sum + meta[byte]);
    }
  }
  if (mb_read_released(peer, bytes, size, &used, released, &error) != 0) return 2;
  return used == size ? 4 : 3;
}

static void test_messages(void) {
  pair link = new_pair();
  mb_list *list = peer_list(link.here);
  mb_writer *writer = mb_writer_new(link.sender);
  uint64_t meta_size, size, used;
  const uint8_t *meta = mb_buffer_meta(list->items[10], &meta_size), *message;
  CHECK(meta_size > 0 && !mb_peer_has_news(link.sender));
  /* A call: the head as it was, ports in order. */
  mb_call_head call = {.stream = 5, .session = 6, .flags = 3, .ports = 2, .session_id = "abc"}, seen;
  mb_writer_begin(writer);
  CHECK(mb_writer_call(writer, &call, &error) == 0);
  CHECK(mb_writer_port(writer, list, NULL, 0, &error) == 0);
  CHECK(mb_writer_port(writer, list, meta, (uint32_t)meta_size, &error) == 0);
  CHECK(mb_writer_finish(writer, 1, 7, 1, link.here, LIMIT, BODY_LIMIT, &message, &size, &error) == 0);
  CHECK(memcmp(message, "MBW1\1\0\0\0\7\0\0\0\1\0\0\0\0\0\0\0", 20) == 0);
  CHECK(mb_peer_has_news(link.sender) && lent_to(link.sender) == 2);
  share_arenas(&link);
  CHECK(!mb_peer_has_news(link.sender));
  mb_list *got = mb_list_new(0);
  const uint8_t *port_meta;
  uint32_t port_meta_size;
  used = MB_MESSAGE_HEADER;
  CHECK(mb_read_call(message, size, &used, &seen, &error) == 0 && memcmp(&seen, &call, sizeof call) == 0);
  CHECK(mb_read_port(link.receiver, message, size, &used, got, &port_meta, &port_meta_size, &error) == 0);
  CHECK(got->count == 11 && port_meta_size == 0);
  CHECK(mb_read_port(link.receiver, message, size, &used, got, &port_meta, &port_meta_size, &error) == 0);
  CHECK(got->count == 22 && port_meta_size == meta_size && memcmp(port_meta, meta, meta_size) == 0 && used == size);
  /* What the other side is done with goes back with its next message; undone, with the one after that. */
  mb_list_free(got);
  mb_writer *back = mb_writer_new(link.receiver);
  got = mb_list_new(0);
  for (int round = 0; round < 2; round++) {
    write_results(back, got, NULL, 0);
    CHECK(mb_writer_finish(back, 17, 7, 2, link.there, LIMIT, BODY_LIMIT, &message, &size, &error) == 2);
    if (round == 0) mb_writer_undo(back);
  }
  CHECK(read_results(link.sender, message, size, 2, got) == 4 && lent_to(link.sender) == 0);
  CHECK(read_results(link.sender, message, size, 2, got) == 2); /* not lent any more */
  /* A message that is not sent takes its loans back, finished or not. */
  write_results(writer, list, meta, (uint32_t)meta_size);
  CHECK(lent_to(link.sender) == 1);
  mb_writer_undo(writer);
  CHECK(lent_to(link.sender) == 0);
  /* Beyond the socket's limit the body lies in the arena; beyond the body's limit it is refused. */
  write_results(writer, list, NULL, 0);
  CHECK(mb_writer_finish(writer, 17, 1, 2, link.here, 64, BODY_LIMIT, &message, &size, &error) == 0);
  CHECK(message[5] == MB_MESSAGE_LARGE && size == MB_MESSAGE_HEADER + 40 && lent_to(link.sender) == 2);
  used = MB_MESSAGE_HEADER;
  mb_list *body = mb_list_new(0);
  CHECK(mb_peer_decode(link.receiver, message, size, &used, 1, body, &error) == 0 && used == size);
  CHECK(memcmp(mb_buffer_data(body->items[0]), "\1\0\0\0\0\0\0\0\3\0\0\0\5\0\0\0wrong\0\0\0", 24) == 0);
  write_results(writer, list, NULL, 0);
  CHECK(mb_writer_finish(writer, 17, 1, 2, link.here, 64, 128, &message, &size, &error) == -MB_NOBUFS);
  mb_writer_undo(writer);
  /* Many buffers: the memory grows as it must, and nothing is lost on the way. */
  mb_list *many = mb_list_new(0), *all = mb_list_new(0);
  for (int at = 0; at < 2000; at++) CHECK(mb_list_push(many, mb_buffer_ref(list->items[10])) == 0);
  write_results(writer, many, NULL, 0);
  CHECK(mb_writer_finish(writer, 17, 1, 2, link.here, BODY_LIMIT, BODY_LIMIT, &message, &size, &error) == 0);
  CHECK(read_results(link.receiver, message, size, 0, all) == 4 && all->count == 2000);
  uint64_t before = lent_to(link.sender);
  write_results(writer, many, NULL, 0);
  CHECK(lent_to(link.sender) == before + 2000);
  mb_writer_undo(writer);
  CHECK(lent_to(link.sender) == before);
  mb_list_free(many);
  mb_list_free(all);
  mb_list_free(body);
  mb_list_free(got);
  mb_list_free(list);
  mb_writer_free(back);
  mb_writer_free(writer);
  free_pair(&link);
}

/* Every way to cut a message, and counts that overflow: refused, and nothing outside is read (the copies have
 * exactly their size, so that the sanitizer sees it). */
static void test_messages_hostile(void) {
  pair link = new_pair();
  mb_list *list = peer_list(link.here);
  mb_writer *writer = mb_writer_new(link.sender);
  uint64_t meta_size, size;
  const uint8_t *meta = mb_buffer_meta(list->items[10], &meta_size), *message;
  write_results(writer, list, meta, (uint32_t)meta_size);
  CHECK(mb_writer_finish(writer, 17, 1, 2, link.here, LIMIT, BODY_LIMIT, &message, &size, &error) == 0);
  share_arenas(&link);
  for (uint64_t cut = 0; cut < size; cut++) {
    uint8_t *copy = malloc(cut > 0 ? cut : 1);
    memcpy(copy, message, cut);
    mb_list *got = mb_list_new(0);
    CHECK(read_results(link.receiver, copy, cut, 0, got) < 2 && got->count == 0);
    mb_list_free(got);
    free(copy);
  }
  const uint32_t numbers[] = {0xffffffff, 0xfffffff8, 0x80000000, 0x10000, 65};
  const uint64_t second = MB_MESSAGE_HEADER + 24, port = second + 16;
  /* ports of the first result, its text; ports of the second, its text; meta of the port, its buffers */
  const uint64_t places[] = {MB_MESSAGE_HEADER + 4, MB_MESSAGE_HEADER + 12, second + 4, second + 12, port + 4, port};
  uint8_t *copy = malloc(size);
  mb_list *got = mb_list_new(0);
  for (size_t place = 0; place < sizeof places / sizeof *places; place++) {
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++) {
      memcpy(copy, message, size);
      memcpy(copy + places[place], &numbers[at], 4);
      if (numbers[at] == 65 && place % 2 == 1) continue; /* only ports are limited by number */
      CHECK(read_results(link.receiver, copy, size, 0, got) < 2);
    }
  }
  memcpy(copy, message, size);
  CHECK(read_results(link.receiver, copy, size, 0xffffffff, got) == 2);
  CHECK(read_results(link.receiver, copy, size, 1, got) == 2);
  uint64_t beyond = size + 8, far = UINT64_MAX - 7;
  memset(copy + MB_MESSAGE_HEADER, 0, 4); /* its text is there, its error flag not */
  CHECK(read_results(link.receiver, copy, size, 0, got) == 0);
  mb_call_head call;
  CHECK(mb_read_call(copy, size, &beyond, &call, &error) == -MB_INVALID && beyond == size + 8);
  CHECK(mb_read_call(copy, size, &far, &call, &error) == -MB_INVALID);
  CHECK(mb_read_released(link.receiver, copy, size, &far, 1, &error) == -MB_INVALID);
  mb_list_free(got);
  free(copy);
  uint32_t seed = 5, accepted = 0;
  for (int round = 0; round < 50000; round++) {
    copy = malloc(size);
    memcpy(copy, message, size);
    for (uint32_t flips = next_random(&seed) % 4; flips > 0; flips--) {
      copy[next_random(&seed) % size] = next_random(&seed) % 3 == 0 ? 0xff : (uint8_t)next_random(&seed);
    }
    got = mb_list_new(0);
    if (read_results(link.receiver, copy, size, 0, got) == 4) accepted++;
    mb_list_free(got);
    free(copy);
    uint64_t ids[16];
    while (mb_peer_take_done(link.receiver, ids, 16) > 0) {
    }
  }
  CHECK(accepted > 1000);
  mb_list_free(list);
  mb_writer_free(writer);
  free_pair(&link);
}

/* ---- threads ------------------------------------------------------------------------------------------------ */

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

static void test_threads(void) {
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

int main(int argc, char **argv) {
  test_threads();
  if (argc > 1 && strcmp(argv[1], "threads") == 0) {
    puts("core: threads passed");
    return 0;
  }
  test_pool();
  test_pool_limits();
  test_guards();
  test_arena_is_sealed();
  test_meta();
  test_meta_fuzz();
  test_lists();
  test_segment();
  test_stream();
  test_peers();
  test_peer_refuses_unsealed();
  test_peer_fuzz();
  test_messages();
  test_messages_hostile();
  puts("core: all passed");
  return 0;
}
