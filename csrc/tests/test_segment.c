/* The run of fused units and of streams. */
#include "support.h"

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

static const mb_unit lose_unit = UNIT("lose", lose_one), refuse_unit = UNIT("refuse", refuse);
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
  /* A strict port between two nodes turns what is not of its type into an error that fails the session. */
  CHECK(mb_segment_set_strict(segment, 2, MB_TYPE_STRING, "x", &error) == -MB_RANGE);
  CHECK(mb_segment_set_strict(segment, 1, MB_TYPE_STRING, "node 'c' port 'in': expected string", &error) == 0);
  mb_list *strict = mb_list_new(0);
  CHECK(mb_segment_run(segment, &in, 1, &strict, 1, &error) == 0);
  CHECK(strict->count == 10 && strict->items[5] == NULL && strict->items[2] == in->items[2]);
  const char *why;
  CHECK(mb_buffer_error(strict->items[0], NULL, &why) && mb_list_fatal(strict, 0, 10) == 0);
  CHECK(strncmp(why, "node 'c' port 'in': expected string, found no text, ", 52) == 0);
  char found[64];
  CHECK(mb_list_misfit(in, MB_TYPE_STRING, found, sizeof found) == 0 && mb_list_misfit(in, 0, found, 64) == -1);
  mb_list_free(strict);
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
  mb_stream_end(stream, NULL, 1);
  mb_list_free(in);
  mb_list_free(out);
  mb_node_close(node);
  mb_pool_free(pool);
}

void test_segments(void) {
  test_segment();
  test_stream();
}
