/*
 * Messages of calls and results: heads and ports around the buffers that peer.c encodes.
 * What is read is hostile; what is written can be taken back.
 */
#include "internal.h"

#define FIRST_CAPACITY 65536u
#define KEEP_CAPACITY (1u << 20) /* the memory of one giant message is not kept */

typedef struct mb_header {
  char magic[4];
  uint8_t kind, flags;
  uint16_t zero;
  uint32_t sequence, count, released, zero2;
} mb_header;

typedef struct mb_port_head {
  uint32_t buffers, meta_size;
} mb_port_head;

typedef struct mb_span {
  uint64_t at;
  uint32_t count;
} mb_span;

struct mb_writer {
  mb_peer *peer;
  uint8_t *memory;
  uint64_t capacity, used;
  mb_span *spans; /* where buffers are encoded */
  uint32_t span_count, span_capacity;
  uint64_t done_at; /* ids to give back */
  uint32_t done_count;
  uint8_t large[MB_MESSAGE_HEADER + MB_ENCODED_SIZE];
};

/* ---- writing --------------------------------------------------------------------------------------------- */

mb_writer *mb_writer_new(mb_peer *peer) {
  mb_writer *writer = calloc(1, sizeof *writer);
  if (writer == NULL) return NULL;
  writer->peer = peer;
  writer->used = MB_MESSAGE_HEADER;
  return writer;
}

void mb_writer_free(mb_writer *writer) {
  if (writer == NULL) return;
  free(writer->memory);
  free(writer->spans);
  free(writer);
}

void mb_writer_begin(mb_writer *writer) {
  if (writer->capacity > KEEP_CAPACITY) {
    free(writer->memory);
    writer->memory = NULL;
    writer->capacity = 0;
  }
  writer->used = MB_MESSAGE_HEADER;
  writer->span_count = 0;
  writer->done_count = 0;
}

static int32_t reserve(mb_writer *writer, uint64_t size, mb_error *error) {
  if (writer->capacity >= size + writer->used) return 0;
  uint64_t capacity = writer->capacity > 0 ? writer->capacity : FIRST_CAPACITY;
  while (capacity < size + writer->used) capacity *= 2;
  uint8_t *memory = realloc(writer->memory, capacity);
  if (memory == NULL) return mb__fail(error, MB_NOMEM, "out of memory");
  writer->memory = memory;
  writer->capacity = capacity;
  return 0;
}

static int32_t put(mb_writer *writer, const void *bytes, uint64_t size, mb_error *error) {
  uint64_t space = mb__round(size, 8);
  int32_t status = reserve(writer, space, error);
  if (status != 0 || size == 0) return status;
  uint8_t *to = writer->memory + writer->used;
  memcpy(to, bytes, size);
  memset(to + size, 0, space - size);
  writer->used += space;
  return 0;
}

int32_t mb_writer_call(mb_writer *writer, const mb_call_head *head, mb_error *error) {
  return put(writer, head, sizeof *head, error);
}

int32_t mb_writer_result(mb_writer *writer, const mb_result_head *head, const char *text, mb_error *error) {
  int32_t status = put(writer, head, sizeof *head, error);
  return status == 0 ? put(writer, text, head->text_size, error) : status;
}

static int32_t add_span(mb_writer *writer, uint64_t at, uint32_t count, mb_error *error) {
  if (writer->span_count == writer->span_capacity) {
    uint32_t wanted = writer->span_capacity == 0 ? 64 : writer->span_capacity * 2;
    mb_span *larger = realloc(writer->spans, wanted * sizeof *larger);
    if (larger == NULL) return mb__fail(error, MB_NOMEM, "out of memory");
    writer->spans = larger;
    writer->span_capacity = wanted;
  }
  writer->spans[writer->span_count++] = (mb_span){at, count};
  return 0;
}

int32_t mb_writer_port(mb_writer *writer, const mb_list *list, const uint8_t *meta, uint32_t meta_size,
                       mb_error *error) {
  mb_port_head head = {list->count, meta_size};
  int32_t status = put(writer, &head, sizeof head, error);
  if (status == 0) status = put(writer, meta, meta_size, error);
  for (uint32_t done = 0; status == 0 && done < list->count;) {
    /* The span comes first, open to the end: what was encoded before a failure half-way is undone, too. */
    status = add_span(writer, writer->used, UINT32_MAX, error);
    if (status == 0) status = reserve(writer, MB_ENCODED_SIZE, error);
    if (status != 0) break;
    int32_t some = mb_peer_encode(writer->peer, list, done, list->count - done, writer->memory, writer->capacity,
                                  &writer->used, error);
    if (some < 0) return some;
    writer->spans[writer->span_count - 1].count = (uint32_t)some;
    done += (uint32_t)some;
    if (done < list->count) status = reserve(writer, writer->capacity, error); /* doubles it at least */
  }
  return status;
}

static int32_t put_done(mb_writer *writer, mb_error *error) {
  uint32_t count;
  writer->done_at = writer->used;
  do {
    int32_t status = reserve(writer, 1024 * sizeof(uint64_t), error);
    if (status != 0) return status;
    count = mb_peer_take_done(writer->peer, (uint64_t *)(writer->memory + writer->used), 1024);
    writer->used += count * sizeof(uint64_t);
    writer->done_count += count;
  } while (count == 1024);
  return 0;
}

static void put_header(uint8_t *to, uint8_t kind, uint8_t flags, uint32_t sequence, uint32_t count, uint32_t released) {
  mb_header header = {{'M', 'B', 'W', '1'}, kind, flags, 0, sequence, count, released, 0};
  memcpy(to, &header, sizeof header);
}

/* Moves the body into `pool` and makes the message that points at it. */
static int32_t put_large(mb_writer *writer, mb_pool *pool, mb_error *error) {
  mb_buffer *body = mb_buffer_from(pool, writer->memory + MB_MESSAGE_HEADER, writer->used - MB_MESSAGE_HEADER, error);
  if (body == NULL) return error->status != 0 ? -error->status : -MB_NOMEM;
  mb_buffer_seal(body);
  mb_list list = {.items = &body, .count = 1};
  uint64_t used = MB_MESSAGE_HEADER;
  int32_t status = mb_peer_encode(writer->peer, &list, 0, 1, writer->large, sizeof writer->large, &used, error);
  mb_buffer_unref(body);
  return status < 0 ? status : 0;
}

int32_t mb_writer_finish(mb_writer *writer, uint8_t kind, uint32_t sequence, uint32_t count, mb_pool *pool,
                         uint64_t limit, uint64_t body_limit, const uint8_t **message, uint64_t *size,
                         mb_error *error) {
  int32_t status = put_done(writer, error);
  if (status != 0) return status;
  if (writer->used > body_limit) {
    return mb__fail(error, MB_NOBUFS, "%llu bytes in one message to or from a worker, at most %llu are allowed",
                    (unsigned long long)writer->used, (unsigned long long)body_limit);
  }
  bool large = writer->used > limit;
  if (large) {
    status = put_large(writer, pool, error);
    if (status != 0) return status;
  }
  *message = large ? writer->large : writer->memory;
  *size = large ? sizeof writer->large : writer->used;
  put_header((uint8_t *)*message, kind, large ? MB_MESSAGE_LARGE : 0, sequence, count, writer->done_count);
  return (int32_t)writer->done_count;
}

void mb_writer_undo(mb_writer *writer) {
  for (uint32_t at = 0; at < writer->span_count; at++) {
    mb_span *span = &writer->spans[at];
    mb__peer_undo(writer->peer, writer->memory + span->at, writer->used - span->at, span->count);
  }
  if (writer->done_count > 0) mb__peer_keep_done(writer->peer, writer->memory + writer->done_at, writer->done_count);
  mb_writer_begin(writer);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

/* Where the next `wanted` bytes, padded to 8, begin; NULL when they do not fit. */
static const uint8_t *take(const uint8_t *bytes, uint64_t size, uint64_t *at, uint64_t wanted) {
  if (*at > size || wanted > size - *at || mb__round(wanted, 8) > size - *at) return NULL;
  const uint8_t *here = bytes + *at;
  *at += mb__round(wanted, 8);
  return here;
}

static int32_t cut_off(mb_error *error) { return mb__fail(error, MB_INVALID, "a message that is cut off"); }

static int32_t check_ports(uint32_t ports, mb_error *error) {
  return ports > MB_MESSAGE_MAX_PORTS ? mb__fail(error, MB_INVALID, "%u ports", ports) : 0;
}

int32_t mb_read_call(const uint8_t *bytes, uint64_t size, uint64_t *used, mb_call_head *head, mb_error *error) {
  uint64_t at = *used;
  const uint8_t *here = take(bytes, size, &at, sizeof *head);
  if (here == NULL) return cut_off(error);
  memcpy(head, here, sizeof *head);
  int32_t status = check_ports(head->ports, error);
  if (status == 0) *used = at;
  return status;
}

int32_t mb_read_result(const uint8_t *bytes, uint64_t size, uint64_t *used, mb_result_head *head, const char **text,
                       mb_error *error) {
  uint64_t at = *used;
  const uint8_t *here = take(bytes, size, &at, sizeof *head);
  if (here == NULL) return cut_off(error);
  memcpy(head, here, sizeof *head);
  int32_t status = check_ports(head->ports, error);
  if (status != 0) return status;
  if (head->flags & ~MB_RESULT_FLAGS) return mb__fail(error, MB_INVALID, "a result with flags %#x", head->flags);
  if (head->text_size > 0 && !(head->flags & MB_RESULT_ERROR)) {
    return mb__fail(error, MB_INVALID, "a text without an error");
  }
  if (head->text_size > MB_RESULT_TEXT) return mb__fail(error, MB_INVALID, "a text of %u bytes", head->text_size);
  here = take(bytes, size, &at, head->text_size);
  if (here == NULL) return cut_off(error);
  *text = (const char *)here;
  *used = at;
  return 0;
}

int32_t mb_read_port(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, mb_list *list,
                     const uint8_t **meta, uint32_t *meta_size, mb_error *error) {
  uint64_t at = *used;
  mb_port_head head;
  const uint8_t *here = take(bytes, size, &at, sizeof head);
  if (here == NULL) return cut_off(error);
  memcpy(&head, here, sizeof head);
  here = take(bytes, size, &at, head.meta_size);
  if (here == NULL) return cut_off(error);
  if (head.meta_size > 0 && mb_meta_check(here, head.meta_size) != 0) {
    return mb__fail(error, MB_INVALID, "damaged stream meta");
  }
  int32_t status = head.buffers > 0 ? mb_peer_decode(peer, bytes, size, &at, head.buffers, list, error) : 0;
  if (status != 0) return status;
  *meta = here;
  *meta_size = head.meta_size;
  *used = at;
  return 0;
}

int32_t mb_read_released(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, uint32_t count,
                         mb_error *error) {
  uint64_t at = *used;
  const uint8_t *here = take(bytes, size, &at, (uint64_t)count * sizeof(uint64_t));
  if (here == NULL) return cut_off(error);
  for (uint32_t done = 0; done < count; done++) {
    uint64_t id;
    memcpy(&id, here + done * sizeof id, sizeof id);
    int32_t status = mb_peer_release(peer, &id, 1, error);
    if (status != 0) return status;
  }
  *used = at;
  return 0;
}
