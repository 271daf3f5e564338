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

#define MAX_PORTS 64u
#define LARGE 16384u /* average payload from which elementwise chains run one buffer at a time */

struct mb_segment {
  mb_node **nodes;
  uint32_t count;
  uint32_t slice; /* buffers of one slice when payloads are small */
  bool elementwise;
};

struct mb_stream {
  mb_node *node;
  void *state;
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

/* `count` references to one error buffer "<unit>.ProcessError" at the end of every output. */
static int32_t answer_errors(mb_node *node, const char *what, const char *why, mb_list *const *outputs, uint32_t ports,
                             const uint32_t *marks, uint32_t count) {
  char code[128], message[MB_ERROR_SIZE + 192];
  snprintf(code, sizeof code, "%s.%s", node->unit->name, what);
  snprintf(message, sizeof message, "node '%s': %s", node->name, why);
  mb_buffer *error = mb_buffer_new_error(code, message);
  if (error == NULL) return -MB_NOMEM;
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
  mb_call call = {node, inputs, count, outputs, unit->output_count, NULL};
  int32_t status = run_process(node, &call);
  if (status != 0) {
    const char *why = mb__take_error();
    return answer_errors(node, "ProcessError", why != NULL ? why : "process() failed and gave no reason", outputs,
                         unit->output_count, marks, count);
  }
  for (uint32_t port = 0; port < unit->output_count; port++) {
    uint32_t made = outputs[port]->count - marks[port];
    if (made != count) {
      char why[160];
      snprintf(why, sizeof why, "port '%s': input buffer count %u should equal output buffer count %u",
               unit->outputs[port].name, count, made);
      return answer_errors(node, "ProcessError", why, outputs, unit->output_count, marks, count);
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

/* What stands at a position when it is no data for this node: NULL result = it is data. */
static bool passes_by(const mb_node *node, mb_buffer *const *const *inputs, uint32_t at, mb_buffer **what) {
  for (uint32_t port = 0; port < node->unit->input_count; port++) {
    mb_buffer *buffer = inputs[port][at];
    if (buffer == NULL || (buffer->fault != NULL && !(node->flags & MB_UNIT_SEES_ERRORS))) {
      *what = buffer;
      return true;
    }
  }
  return false;
}

static bool all_good(const mb_node *node, mb_buffer *const *const *inputs, uint32_t count) {
  for (uint32_t port = 0; port < node->unit->input_count; port++) {
    for (uint32_t at = 0; at < count; at++) {
      const mb_buffer *buffer = inputs[port][at];
      if (buffer == NULL || (buffer->fault != NULL && !(node->flags & MB_UNIT_SEES_ERRORS))) return false;
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
  if (all_good(node, inputs, count)) return call_batches(node, inputs, count, outputs);
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
    if (!fits || (nodes[at]->flags & MB_UNIT_STREAM)) {
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
  free(segment);
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

/* ---- streams -------------------------------------------------------------------------------------------- */

static int32_t stream_call(mb_stream *stream, int32_t (*function)(const mb_host *, void *, mb_call *),
                           mb_list *const *outputs, uint32_t output_count, const char *what) {
  mb_node *node = stream->node;
  if (function == NULL) return 0;
  mb_call call = {node, NULL, 0, outputs, output_count, &stream->state};
  mb__clear_error();
  int32_t status = function(&mb__host, node->state, &call);
  if (status == 0 || outputs == NULL) return 0;
  stream->failed = true;
  uint32_t marks[MAX_PORTS];
  for (uint32_t port = 0; port < output_count; port++) marks[port] = outputs[port]->count;
  const char *why = mb__take_error();
  return answer_errors(node, what, why != NULL ? why : "the unit gave no reason", outputs, output_count, marks, 1);
}

mb_stream *mb_stream_begin(mb_node *node, mb_list *const *outputs, uint32_t output_count, mb_error *error) {
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
  bool has = node->unit->struct_size >= offsetof(mb_unit, stream_begin) + sizeof node->unit->stream_begin;
  if (has && stream_call(stream, node->unit->stream_begin, outputs, output_count, "DataPreError") != 0) {
    mb__fail(error, MB_NOMEM, "out of memory");
    free(stream);
    return NULL;
  }
  return stream;
}

int32_t mb_stream_run(mb_stream *stream, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                      uint32_t output_count, mb_error *error) {
  mb_node *node = stream->node;
  if (input_count != node->unit->input_count || output_count != node->unit->output_count) {
    return mb__fail(error, MB_INVALID, "node '%s': wrong number of ports", node->name);
  }
  if (stream->failed) return 0; /* the rest of a stream whose begin failed is skipped */
  mb_buffer *const *lists[MAX_PORTS], *const *ports[MAX_PORTS];
  for (uint32_t port = 0; port < input_count; port++) lists[port] = inputs[port]->items;
  uint32_t count = inputs[0]->count;
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
      uint32_t marks[MAX_PORTS];
      for (uint32_t port = 0; port < input_count; port++) ports[port] = lists[port] + from;
      for (uint32_t port = 0; port < output_count; port++) marks[port] = outputs[port]->count;
      mb_call call = {node, ports, to - from, outputs, output_count, &stream->state};
      if (run_process(node, &call) != 0) {
        const char *why = mb__take_error();
        status = answer_errors(node, "ProcessError", why != NULL ? why : "process() failed and gave no reason", outputs,
                               output_count, marks, to - from);
      } else {
        for (uint32_t port = 0; port < output_count; port++) {
          count_up(&node->buffers_out, outputs[port]->count - marks[port]);
        }
      }
    }
    if (status != 0) return mb__fail(error, -status, "node '%s': out of memory", node->name);
    from = to;
  }
  return 0;
}

int32_t mb_stream_end(mb_stream *stream, mb_list *const *outputs, uint32_t output_count, mb_error *error) {
  mb_node *node = stream->node;
  bool has = node->unit->struct_size >= offsetof(mb_unit, stream_end) + sizeof node->unit->stream_end;
  int32_t status = has ? stream_call(stream, node->unit->stream_end, outputs, output_count, "DataPostError") : 0;
  free(stream);
  return status == 0 ? 0 : mb__fail(error, -status, "node '%s': out of memory", node->name);
}
