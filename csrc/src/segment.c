/*
 * Running native nodes: a fused chain over a list of buffers, and stream nodes.
 *
 * A chain works on slices: a slice runs through all nodes before the next one starts, so that what one unit
 * wrote is still in the cache when the next one reads it.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "internal.h"

#define NOT_NORMAL (MB_UNIT_STREAM | MB_UNIT_CONDITION | MB_UNIT_EXPAND | MB_UNIT_COLLAPSE | MB_UNIT_LOOP)
#define FATAL "WrongOutput" /* the word in the code of errors that fail their session */
#define LARGE 16384u        /* average payload from which elementwise chains run one buffer at a time */

/* What a port between two nodes of a segment insists on. */
typedef struct mb_link {
  uint32_t types; /* MB_TYPE_*; 0: nothing */
  char expected[256];
} mb_link;

struct mb_segment {
  mb_node **nodes;
  mb_link *links; /* per node but the last; NULL: no port is strict */
  uint32_t count;
  uint32_t slice; /* buffers of one slice when payloads are small */
  bool elementwise;
};

struct mb_stream {
  mb_node *node;
  void *state;
  uint32_t events;
  bool framed;
  bool failed; /* stream_begin failed: data is answered with errors */
};

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void count_up(atomic_uint_fast64_t *counter, uint64_t by) {
  atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static void cut_list(mb_list *list, uint32_t count) {
  while (list->count > count) {
    mb_buffer *buffer = list->items[--list->count];
    if (buffer != NULL) list->bytes -= buffer->size;
    mb_buffer_unref(buffer);
  }
}

static mb_buffer *new_error(mb_node *node, const char *what, const char *why) {
  char code[128], message[MB_ERROR_SIZE + 192];
  snprintf(code, sizeof code, "%s.%s", node->unit->name, what);
  snprintf(message, sizeof message, "node '%s': %s", node->name, why);
  mb_buffer *error = mb_buffer_new_error(code, message);
  mb__born(error, node->out_depth);
  return error;
}

/* What process() has said about its failure. */
static const char *reason(void) {
  const char *why = mb__take_error();
  return why != NULL ? why : "process() failed and gave no reason";
}

/* `count` references to one error buffer "<unit>.<what>" at the end of every output, cut back to `marks` before. */
static int32_t answer_errors(mb_node *node, const char *what, const char *why, mb_list *const *outputs, uint32_t ports,
                             const uint32_t *marks, uint32_t count) {
  mb_buffer *error = new_error(node, what, why);
  if (error == NULL) return -MB_NOMEM;
  error->fatal = strcmp(what, FATAL) == 0;
  count_up(&node->errors, count);
  int32_t status = 0;
  for (uint32_t port = 0; port < ports && status == 0; port++) {
    cut_list(outputs[port], marks[port]);
    for (uint32_t at = 0; at < count && status == 0; at++) status = mb_list_push(outputs[port], mb_buffer_ref(error));
  }
  mb_buffer_unref(error);
  return status;
}

static int32_t run_process(mb_node *node, mb_call *call) {
  uint64_t start = now_ns();
  mb__clear_error();
  int32_t status = node->unit->process(&mb__host, node->state, call);
  count_up(&node->busy_ns, now_ns() - start);
  count_up(&node->calls, 1);
  count_up(&node->buffers_in, call->count);
  return status;
}

/* One call of a NORMAL node over good inputs; always adds `count` buffers to every output. */
static int32_t call_node(mb_node *node, mb_buffer *const *const *inputs, uint32_t count, mb_list *const *outputs) {
  const mb_unit *unit = node->unit;
  uint32_t marks[MAX_PORTS];
  for (uint32_t port = 0; port < unit->output_count; port++) marks[port] = outputs[port]->count;
  mb_call call = {
      .node = node, .inputs = inputs, .count = count, .outputs = outputs, .output_count = unit->output_count};
  int32_t status = run_process(node, &call);
  if (status != 0) return answer_errors(node, "ProcessError", reason(), outputs, unit->output_count, marks, count);
  for (uint32_t port = 0; port < unit->output_count; port++) {
    uint32_t made = outputs[port]->count - marks[port];
    if (made != count) {
      char why[160];
      snprintf(why, sizeof why, "port '%s': input buffer count %u should equal output buffer count %u",
               unit->outputs[port].name, count, made);
      return answer_errors(node, FATAL, why, outputs, unit->output_count, marks, count);
    }
  }
  count_up(&node->buffers_out, (uint64_t)count * unit->output_count);
  return 0;
}

static int32_t call_batches(mb_node *node, mb_buffer *const *const *inputs, uint32_t count, mb_list *const *outputs) {
  if (count <= node->batch_size) return count == 0 ? 0 : call_node(node, inputs, count, outputs);
  mb_buffer *const *ports[MAX_PORTS];
  for (uint32_t from = 0; from < count; from += node->batch_size) {
    uint32_t size = count - from < node->batch_size ? count - from : node->batch_size;
    for (uint32_t port = 0; port < node->unit->input_count; port++) ports[port] = inputs[port] + from;
    int32_t status = call_node(node, ports, size, outputs);
    if (status != 0) return status;
  }
  return 0;
}

/* Whether the node does not get what stands at a position; *what is then the error, or NULL for a hole. */
static bool passes_by(const mb_node *node, mb_buffer *const *const *inputs, uint32_t at, mb_buffer **what) {
  uint32_t port = 0;
  int32_t kind = mb__position(inputs, node->unit->input_count, at, node->visible, &port);
  *what = kind == MB_ERROR ? inputs[port][at] : NULL;
  return kind != MB_SEEN;
}

static bool all_seen(const mb_node *node, mb_buffer *const *const *inputs, uint32_t count) {
  for (uint32_t port = 0; port < node->unit->input_count; port++) {
    for (uint32_t at = 0; at < count; at++) {
      if (!mb__is_seen(inputs[port][at], node->visible)) return false;
    }
  }
  return true;
}

/* The slow path: errors and placeholders among the inputs keep their places. */
static int32_t call_mixed(mb_node *node, mb_buffer *const *const *inputs, uint32_t count, mb_list *const *outputs) {
  mb_buffer *const *ports[MAX_PORTS];
  for (uint32_t from = 0; from < count;) {
    mb_buffer *what = NULL;
    int32_t status = 0;
    uint32_t to = from;
    if (passes_by(node, inputs, from, &what)) {
      for (uint32_t port = 0; port < node->unit->output_count && status == 0; port++) {
        status = mb_list_push(outputs[port], mb_buffer_ref(what));
      }
      to++;
    } else {
      while (to < count && !passes_by(node, inputs, to, &what)) to++;
      for (uint32_t port = 0; port < node->unit->input_count; port++) ports[port] = inputs[port] + from;
      status = call_batches(node, ports, to - from, outputs);
    }
    if (status != 0) return status;
    from = to;
  }
  return 0;
}

static int32_t run_node(mb_node *node, mb_buffer *const *const *inputs, uint32_t count, mb_list *const *outputs) {
  if (all_seen(node, inputs, count)) return call_batches(node, inputs, count, outputs);
  return call_mixed(node, inputs, count, outputs);
}

/* ---- segments ------------------------------------------------------------------------------------------ */

mb_segment *mb_segment_new(mb_node *const *nodes, uint32_t count, mb_error *error) {
  if (count == 0) {
    mb__fail(error, MB_INVALID, "a segment needs a node");
    return NULL;
  }
  for (uint32_t at = 0; at < count; at++) {
    const mb_unit *unit = nodes[at]->unit;
    bool fits = count == 1 ? unit->input_count <= MAX_PORTS && unit->output_count <= MAX_PORTS
                           : unit->input_count == 1 && unit->output_count == 1;
    if (!fits || (nodes[at]->flags & NOT_NORMAL)) {
      mb__fail(error, MB_INVALID, "node '%s' cannot be part of a segment of %u nodes", nodes[at]->name, count);
      return NULL;
    }
  }
  mb_segment *segment = calloc(1, sizeof *segment);
  mb_node **copy = malloc(count * sizeof *copy);
  if (segment == NULL || copy == NULL) {
    free(segment);
    free(copy);
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  memcpy(copy, nodes, count * sizeof *copy);
  segment->nodes = copy;
  segment->count = count;
  segment->elementwise = true;
  for (uint32_t at = 0; at < count; at++) {
    if (copy[at]->batch_size > segment->slice) segment->slice = copy[at]->batch_size;
    if (!(copy[at]->flags & MB_UNIT_ELEMENTWISE)) segment->elementwise = false;
  }
  if (segment->elementwise && segment->slice < 32) segment->slice = 32;
  return segment;
}

void mb_segment_free(mb_segment *segment) {
  if (segment == NULL) return;
  free(segment->nodes);
  free(segment->links);
  free(segment);
}

int32_t mb_segment_set_strict(mb_segment *segment, uint32_t at, uint32_t types, const char *expected, mb_error *error) {
  if (at + 1 >= segment->count) return mb__fail(error, MB_RANGE, "a segment has no link %u", at);
  if (segment->links == NULL) segment->links = calloc(segment->count, sizeof *segment->links);
  if (segment->links == NULL) return mb__fail(error, MB_NOMEM, "out of memory");
  segment->links[at].types = types;
  snprintf(segment->links[at].expected, sizeof segment->links[at].expected, "%s", expected);
  return 0;
}

/* Puts errors that fail their session in the place of values that the next node's port does not take. */
static int32_t check_link(const mb_link *link, mb_node *node, mb_list *list) {
  char found[128], message[sizeof link->expected + sizeof found + 16], code[128];
  for (uint32_t at = 0; at < list->count; at++) {
    if (mb__is_of_type(list->items[at], link->types, found, sizeof found)) continue;
    snprintf(code, sizeof code, "%s.%s", node->unit->name, FATAL);
    snprintf(message, sizeof message, "%s, found %s", link->expected, found);
    mb_buffer *error = mb_buffer_new_error(code, message);
    if (error == NULL) return -MB_NOMEM;
    error->fatal = true;
    mb__born(error, node->out_depth);
    list->bytes -= list->items[at]->size;
    mb_buffer_unref(list->items[at]);
    list->items[at] = error;
  }
  return 0;
}

static void clear_list(mb_list *list) { cut_list(list, 0); }

static int32_t run_slice(mb_segment *segment, mb_buffer *const *const *inputs, uint32_t count, mb_list *const *outputs,
                         mb_list *scratch[2]) {
  mb_buffer *const *const *from = inputs;
  mb_buffer *const *middle;
  for (uint32_t at = 0; at < segment->count; at++) {
    bool is_last = at + 1 == segment->count;
    mb_list *to = scratch[at % 2];
    if (!is_last) clear_list(to);
    int32_t status = run_node(segment->nodes[at], from, count, is_last ? outputs : &to);
    if (status == 0 && !is_last && segment->links != NULL && segment->links[at].types != 0) {
      status = check_link(&segment->links[at], segment->nodes[at], to);
    }
    if (status != 0) return status;
    middle = to->items;
    from = &middle;
  }
  return 0;
}

int32_t mb_segment_run(mb_segment *segment, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                       uint32_t output_count, mb_error *error) {
  const mb_unit *first = segment->nodes[0]->unit, *last = segment->nodes[segment->count - 1]->unit;
  if (input_count != first->input_count || output_count != last->output_count || input_count == 0) {
    return mb__fail(error, MB_INVALID, "a segment of %u inputs and %u outputs was run with %u and %u",
                    first->input_count, last->output_count, input_count, output_count);
  }
  uint32_t count = inputs[0]->count;
  uint64_t bytes = inputs[0]->bytes;
  for (uint32_t port = 1; port < input_count; port++) {
    if (inputs[port]->count != count) return mb__fail(error, MB_INVALID, "input ports of different length");
    bytes += inputs[port]->bytes;
  }
  uint32_t slice = segment->elementwise && count > 0 && bytes / count > LARGE ? 1 : segment->slice;
  mb_list *scratch[2] = {mb_list_new(slice), mb_list_new(slice)};
  int32_t status = scratch[0] != NULL && scratch[1] != NULL ? 0 : -MB_NOMEM;
  mb_buffer *const *ports[MAX_PORTS];
  for (uint32_t from = 0; from < count && status == 0; from += slice) {
    for (uint32_t port = 0; port < input_count; port++) ports[port] = inputs[port]->items + from;
    status = run_slice(segment, ports, count - from < slice ? count - from : slice, outputs, scratch);
  }
  mb_list_free(scratch[0]);
  mb_list_free(scratch[1]);
  return status == 0 ? 0 : mb__fail(error, -status, "segment at node '%s': out of memory", segment->nodes[0]->name);
}

/* ---- conditions and loops ---- */

/* One call that has to choose a port; the value goes there, the other ports get a hole. */
static int32_t choose_one(mb_node *node, mb_buffer *const *const *inputs, mb_list *const *outputs, uint32_t ports,
                          uint32_t error_port) {
  uint32_t marks[MAX_PORTS], made = 0;
  for (uint32_t port = 0; port < ports; port++) marks[port] = outputs[port]->count;
  mb_call call = {.node = node, .inputs = inputs, .count = 1, .outputs = outputs, .output_count = ports};
  mb_buffer *error = NULL;
  if (run_process(node, &call) != 0) {
    error = new_error(node, "ProcessError", reason());
    if (error == NULL) return -MB_NOMEM;
  } else {
    for (uint32_t port = 0; port < ports; port++) made += outputs[port]->count - marks[port];
    if (made != 1) {
      char why[120];
      snprintf(why, sizeof why, "one value must go to one output port, it gave %u", made);
      error = new_error(node, FATAL, why);
      if (error == NULL) return -MB_NOMEM;
      error->fatal = true;
    }
  }
  if (error != NULL) {
    count_up(&node->errors, 1);
    for (uint32_t port = 0; port < ports; port++) cut_list(outputs[port], marks[port]);
    int32_t status = mb_list_push(outputs[error_port], error);
    if (status != 0) return status;
  } else {
    count_up(&node->buffers_out, 1);
  }
  for (uint32_t port = 0; port < ports; port++) {
    if (outputs[port]->count == marks[port]) {
      int32_t status = mb_list_push(outputs[port], NULL);
      if (status != 0) return status;
    }
  }
  return 0;
}

int32_t mb_node_choose(mb_node *node, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                       uint32_t output_count, uint32_t error_port, mb_error *error) {
  if (input_count != node->unit->input_count || output_count != node->unit->output_count || input_count == 0 ||
      input_count > MAX_PORTS || output_count > MAX_PORTS || error_port >= output_count) {
    return mb__fail(error, MB_INVALID, "node '%s': wrong number of ports", node->name);
  }
  mb_buffer *const *lists[MAX_PORTS], *const *ports[MAX_PORTS];
  for (uint32_t port = 0; port < input_count; port++) lists[port] = inputs[port]->items;
  for (uint32_t at = 0; at < inputs[0]->count; at++) {
    mb_buffer *what = NULL;
    int32_t status = 0;
    if (passes_by(node, lists, at, &what)) {
      for (uint32_t port = 0; port < output_count && status == 0; port++) {
        status = mb_list_push(outputs[port], port == error_port ? mb_buffer_ref(what) : NULL);
      }
    } else {
      for (uint32_t port = 0; port < input_count; port++) ports[port] = lists[port] + at;
      status = choose_one(node, ports, outputs, output_count, error_port);
    }
    if (status != 0) return mb__fail(error, -status, "node '%s': out of memory", node->name);
  }
  return 0;
}

/* ---- streams -------------------------------------------------------------------------------------------- */

/* stream_begin or stream_end; gives what the unit returned. What counts of what it pushed is the caller's to say. */
static int32_t stream_call(mb_stream *stream, int32_t (*function)(const mb_host *, void *, mb_call *),
                           mb_list *const *outputs, uint32_t output_count, uint32_t *marks) {
  mb_call call = {.node = stream->node,
                  .outputs = outputs,
                  .output_count = output_count,
                  .stream_state = &stream->state,
                  .events = &stream->events};
  for (uint32_t port = 0; outputs != NULL && port < output_count; port++) marks[port] = outputs[port]->count;
  mb__clear_error();
  return function(&mb__host, stream->node->state, &call);
}

static void cut_lists(mb_list *const *outputs, uint32_t output_count, const uint32_t *marks) {
  for (uint32_t port = 0; outputs != NULL && port < output_count; port++) cut_list(outputs[port], marks[port]);
}

mb_stream *mb_stream_begin(mb_node *node, int32_t framed, mb_list *const *outputs, uint32_t output_count,
                           mb_error *error) {
  if (output_count != node->unit->output_count || output_count > MAX_PORTS || node->unit->input_count > MAX_PORTS) {
    mb__fail(error, MB_INVALID, "node '%s': wrong number of ports", node->name);
    return NULL;
  }
  mb_stream *stream = calloc(1, sizeof *stream);
  if (stream == NULL) {
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  stream->node = node;
  stream->framed = framed != 0;
  bool has = framed && node->unit->struct_size >= offsetof(mb_unit, stream_begin) + sizeof node->unit->stream_begin;
  if (!has || node->unit->stream_begin == NULL) return stream;
  uint32_t marks[MAX_PORTS] = {0};
  stream->failed = stream_call(stream, node->unit->stream_begin, outputs, output_count, marks) != 0;
  if (!stream->failed) {
    /* What an expand gives here is in no sub-stream. */
    if (node->flags & MB_UNIT_EXPAND) cut_lists(outputs, output_count, marks);
    return stream;
  }
  const char *why = mb__take_error();
  if (why == NULL) why = "stream_begin failed and gave no reason";
  if (answer_errors(node, "DataPreError", why, outputs, output_count, marks, 1) != 0) {
    mb__fail(error, MB_NOMEM, "out of memory");
    free(stream);
    return NULL;
  }
  return stream;
}

/* One process() call of a context, with values or for an event. */
static int32_t stream_process(mb_stream *stream, mb_buffer *const *const *inputs, uint32_t count, bool is_event,
                              mb_list *const *outputs, uint32_t output_count, const uint32_t *marks) {
  mb_node *node = stream->node;
  mb_call call = {.node = node,
                  .inputs = inputs,
                  .count = count,
                  .outputs = outputs,
                  .output_count = output_count,
                  .stream_state = &stream->state,
                  .events = &stream->events,
                  .is_event = is_event};
  int32_t status = run_process(node, &call);
  /* Only CONTINUE keeps a sub-stream open; what still waits is lost. */
  if ((node->flags & MB_UNIT_EXPAND) && status != MB_CONTINUE) stream->events = 0;
  if (status != 0 && status != MB_CONTINUE) {
    uint32_t errors = count == 0 || (node->flags & MB_UNIT_COLLAPSE) ? 1 : count;
    int32_t answered = answer_errors(node, "ProcessError", reason(), outputs, output_count, marks, errors);
    return answered < 0 ? answered : 1;
  }
  for (uint32_t port = 0; port < output_count; port++) {
    count_up(&node->buffers_out, outputs[port]->count - marks[port]);
  }
  return 0;
}

uint32_t mb_stream_events(const mb_stream *stream) { return stream->events; }

int32_t mb_stream_event(mb_stream *stream, mb_list *const *outputs, uint32_t output_count, mb_error *error) {
  if (output_count != stream->node->unit->output_count || stream->events == 0) {
    return mb__fail(error, MB_INVALID, "node '%s': no event waits, or wrong number of ports", stream->node->name);
  }
  uint32_t marks[MAX_PORTS];
  for (uint32_t port = 0; port < output_count; port++) marks[port] = outputs[port]->count;
  stream->events--;
  int32_t status = stream_process(stream, NULL, 0, true, outputs, output_count, marks);
  return status >= 0 ? status : mb__fail(error, -status, "node '%s': out of memory", stream->node->name);
}

int32_t mb_stream_run(mb_stream *stream, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                      uint32_t output_count, mb_error *error) {
  mb_node *node = stream->node;
  if (input_count != node->unit->input_count || output_count != node->unit->output_count) {
    return mb__fail(error, MB_INVALID, "node '%s': wrong number of ports", node->name);
  }
  mb_buffer *const *lists[MAX_PORTS], *const *ports[MAX_PORTS];
  for (uint32_t port = 0; port < input_count; port++) lists[port] = inputs[port]->items;
  uint32_t count = inputs[0]->count;
  int32_t failed = 0;
  for (uint32_t from = 0; from < count;) {
    mb_buffer *what = NULL;
    int32_t status = 0;
    uint32_t to = from;
    if (passes_by(node, lists, from, &what)) {
      for (uint32_t port = 0; port < output_count && status == 0; port++) {
        status = mb_list_push(outputs[port], mb_buffer_ref(what));
      }
      to++;
    } else {
      while (to < count && !passes_by(node, lists, to, &what)) to++;
      if (stream->failed) { /* what follows a stream_begin that failed is skipped */
        from = to;
        continue;
      }
      uint32_t marks[MAX_PORTS];
      for (uint32_t port = 0; port < input_count; port++) ports[port] = lists[port] + from;
      for (uint32_t port = 0; port < output_count; port++) marks[port] = outputs[port]->count;
      status = stream_process(stream, ports, to - from, false, outputs, output_count, marks);
      failed |= status > 0;
    }
    if (status < 0) return mb__fail(error, -status, "node '%s': out of memory", node->name);
    from = to;
  }
  return failed;
}

void mb_stream_end(mb_stream *stream, mb_list *const *outputs, uint32_t output_count) {
  mb_node *node = stream->node;
  bool has = stream->framed && node->unit->struct_size >= offsetof(mb_unit, stream_end) + sizeof node->unit->stream_end;
  if (has && node->unit->stream_end != NULL) {
    uint32_t marks[MAX_PORTS] = {0};
    bool failed = stream_call(stream, node->unit->stream_end, outputs, output_count, marks) != 0;
    if (failed || stream->failed || (node->flags & MB_UNIT_EXPAND)) cut_lists(outputs, output_count, marks);
  }
  free(stream);
}
