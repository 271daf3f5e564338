/*
 * A fuzzer of what the daemon reads from a worker: `messages-asan COUNT [SEED]`.
 *
 * Good messages of every kind are made by the real writer, and damaged with knowledge of their form: words become
 * numbers near limits, ids and arenas that are valid, messages are cut, lengthened, joined. Each input lies in a block
 * of its own size, so that the sanitizer sees every byte read beyond it. What is accepted is read to the last byte, as
 * the engine would; at the end nothing may be left.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "support.h"

#define KINDS 9
#define MOST_BYTES 16384u
#define RESULTS 18

typedef struct input {
  uint8_t bytes[MOST_BYTES];
  uint32_t size;
} input;

typedef struct fuzzer {
  pair link; /* sender: the worker; receiver: the daemon */
  input good[KINDS];
  mb_list *from_daemon; /* what the daemon lends */
  mb_list *at_worker;   /* as the worker has it */
  uint64_t state;
  uint64_t accepted, buffers, released;
  uint32_t arena;
  uint64_t ids[16]; /* what the worker has, by its ids */
  uint32_t id_count;
} fuzzer;

static uint32_t random_below(fuzzer *fuzz, uint32_t limit) {
  fuzz->state ^= fuzz->state << 13;
  fuzz->state ^= fuzz->state >> 7;
  fuzz->state ^= fuzz->state << 17;
  return (uint32_t)((fuzz->state >> 32) % limit);
}

/* ---- good messages ----------------------------------------------------------------------------------------- */

/* The worker has the daemon's buffers, as after a call. */
static void lend_again(fuzzer *fuzz) {
  uint8_t wire[8192];
  uint64_t size = 0, used = 0;
  mb_list_free(fuzz->at_worker);
  fuzz->at_worker = mb_list_new(0);
  mb_list *list = fuzz->from_daemon;
  CHECK(mb_peer_encode(fuzz->link.receiver, list, 0, list->count, wire, sizeof wire, &size, &error) ==
        (int32_t)list->count);
  uint32_t ids[8];
  int32_t fds[8];
  for (uint32_t count; (count = mb_peer_take_fds(fuzz->link.receiver, ids, fds, 8)) > 0;) {
    for (uint32_t at = 0; at < count; at++)
      CHECK(mb_peer_map(fuzz->link.sender, ids[at], fds[at], 1ull << 40, &error) == 0);
  }
  CHECK(mb_peer_decode(fuzz->link.sender, wire, size, &used, list->count, fuzz->at_worker, &error) == 0);
  uint64_t before[16];
  memcpy(before, fuzz->ids, sizeof before);
  uint32_t known = fuzz->id_count;
  fuzz->id_count = 0;
  for (uint32_t at = 0; at < list->count && fuzz->id_count < 16; at++) {
    const mb_buffer *buffer = fuzz->at_worker->items[at];
    if (buffer != NULL && buffer->data != NULL && buffer->data->done != NULL)
      fuzz->ids[fuzz->id_count++] = buffer->data->lend_id;
  }
  /* Good messages stay good. */
  for (uint32_t kind = 0; kind < KINDS; kind++) {
    for (uint32_t at = 0; at + 8 <= fuzz->good[kind].size; at += 8) {
      for (uint32_t id = 0; id < known && id < fuzz->id_count; id++) {
        if (memcmp(fuzz->good[kind].bytes + at, &before[id], 8) == 0) {
          memcpy(fuzz->good[kind].bytes + at, &fuzz->ids[id], 8);
          break;
        }
      }
    }
  }
}

/* New ids for all that the worker has. */
static void turn_over(fuzzer *fuzz) {
  uint64_t ids[64];
  for (uint32_t at = 0; at < fuzz->id_count; at++) mb_peer_release(fuzz->link.receiver, &fuzz->ids[at], 1, &error);
  lend_again(fuzz);
  while (mb_peer_take_done(fuzz->link.sender, ids, 64) > 0) {
  }
}

static void keep(fuzzer *fuzz, uint32_t kind, mb_writer *writer, uint32_t count, uint64_t limit) {
  const uint8_t *message;
  uint64_t size;
  CHECK(mb_writer_finish(writer, RESULTS, 1, count, fuzz->link.here, limit, 1 << 20, &message, &size, &error) >= 0);
  CHECK(size <= MOST_BYTES);
  memcpy(fuzz->good[kind].bytes, message, size);
  fuzz->good[kind].size = (uint32_t)size;
}

static void result(mb_writer *writer, uint32_t flags, const char *text, uint32_t ports) {
  mb_result_head head = {flags, ports, flags & 1 ? 3 : 0, (uint32_t)strlen(text)};
  CHECK(mb_writer_result(writer, &head, text, &error) == 0);
}

/* Messages of every form, with buffers of every kind in them. */
static void make_good(fuzzer *fuzz) {
  mb_writer *writer = mb_writer_new(fuzz->link.sender);
  mb_list *own = peer_list(fuzz->link.here), *empty = mb_list_new(0);
  const double reals[] = {1, 2};
  mb_buffer *rich = mb_buffer_new(fuzz->link.here, 20, &error);
  mb__host.meta_set_string(rich, "text", "some words");
  mb__host.meta_set_doubles(rich, "reals", reals, 2);
  mb__host.meta_set_int(rich, "width", 640);
  mb_buffer_seal(rich);
  CHECK(mb_list_push(own, rich) == 0);
  uint64_t meta_size, numbered_size;
  const uint8_t *meta = mb_buffer_meta(rich, &meta_size);
  mb_list *values = mb_list_new(0);
  for (uint32_t at = 0; at < 3; at++) {
    mb_buffer *value = mb_buffer_new(fuzz->link.here, at * 10 + 1, &error);
    mb__host.meta_set_string(value, "key", at == 0 ? "a key" : "another key");
    mb__host.meta_set_bool(value, "config", at == 1);
    mb__host.meta_set_string(value, "node", "node");
    if (at == 2) mb_buffer_set_error(value, "Session.Value", "it cannot be packed");
    mb_buffer_seal(value);
    CHECK(mb_list_push(values, value) == 0);
  }
  mb_buffer *number = mb_buffer_new(fuzz->link.here, 0, &error);
  mb__host.meta_set_int(number, "writes", 7);
  const uint8_t *numbered = mb_buffer_meta(number, &numbered_size);
  for (uint32_t kind = 0; kind < KINDS; kind++) {
    mb_writer_begin(writer);
    uint32_t count = 1;
    if (kind == 0) { /* all that the worker has made */
      result(writer, 0, "", 1);
      CHECK(mb_writer_port(writer, own, NULL, 0, &error) == 0);
    } else if (kind == 1) { /* an error, and two ports with stream meta */
      count = 2;
      result(writer, 5, "wrong", 0);
      result(writer, 2, "", 2);
      CHECK(mb_writer_port(writer, own, meta, (uint32_t)meta_size, &error) == 0);
      CHECK(mb_writer_port(writer, empty, meta, (uint32_t)meta_size, &error) == 0);
    } else if (kind == 2) { /* what came from the daemon goes back */
      result(writer, 0, "", 1);
      CHECK(mb_writer_port(writer, fuzz->at_worker, NULL, 0, &error) == 0);
    } else if (kind == 8) { /* values of a session, as VALUES has them: one has an error instead of data */
      count = 2;
      for (uint32_t at = 0; at < count; at++) {
        mb_result_head head = {0, 1, at, 0};
        CHECK(mb_writer_result(writer, &head, "", &error) == 0);
        CHECK(mb_writer_port(writer, values, numbered, (uint32_t)numbered_size, &error) == 0);
      }
    } else if (kind == 3 || kind == 7) { /* ids only; 7: none */
      count = 0;
      if (kind == 3) {
        mb_list_free(fuzz->at_worker);
        fuzz->at_worker = mb_list_new(0);
      }
    } else { /* many small results; 5: in an arena */
      count = kind == 6 ? 3 : 12;
      for (uint32_t at = 0; at < count; at++) {
        result(writer, at % 3 == 2 ? 16 : 0, "", 1);
        CHECK(mb_writer_port(writer, at % 2 ? empty : own, NULL, 0, &error) == 0);
      }
    }
    keep(fuzz, kind, writer, count, kind == 5 ? 64 : MOST_BYTES);
    uint32_t ids[8];
    int32_t fds[8];
    for (uint32_t news; (news = mb_peer_take_fds(fuzz->link.sender, ids, fds, 8)) > 0;) {
      for (uint32_t at = 0; at < news; at++) {
        fuzz->arena = ids[at];
        CHECK(mb_peer_map(fuzz->link.receiver, ids[at], fds[at], 1ull << 40, &error) == 0);
      }
    }
  }
  mb_writer_free(writer);
  mb_list_free(values);
  mb_buffer_unref(number);
  mb_list_free(own); /* the blocks stay: they are lent */
  mb_list_free(empty);
}

/* ---- damage ------------------------------------------------------------------------------------------------- */

static uint64_t some_number(fuzzer *fuzz, uint32_t size) {
  static const uint64_t near[] = {0,
                                  1,
                                  2,
                                  7,
                                  8,
                                  16,
                                  24,
                                  39,
                                  40,
                                  64,
                                  65,
                                  4096,
                                  0xffff,
                                  0x10000,
                                  1u << 20,
                                  0x7fffffff,
                                  0x80000000,
                                  0xfffffff8,
                                  0xffffffff,
                                  1ull << 32,
                                  4u << 20,
                                  (4u << 20) - 64,
                                  1ull << 40,
                                  UINT64_MAX - 63,
                                  UINT64_MAX - 7,
                                  UINT64_MAX};
  switch (random_below(fuzz, 6)) {
    case 0:
      return size - random_below(fuzz, 64);
    case 1:
      return fuzz->arena;
    case 2: /* an id that may be lent, or its neighbour */
      return fuzz->ids[random_below(fuzz, fuzz->id_count)] + (random_below(fuzz, 4) == 0 ? 1ull << 32 : 0);
    case 3:
      return random_below(fuzz, 6);
    default:
      return near[random_below(fuzz, sizeof near / sizeof *near)];
  }
}

static void damage(fuzzer *fuzz, input *made) {
  uint32_t words = made->size / 4;
  switch (random_below(fuzz, 10)) {
    case 0: /* a byte */
      if (made->size > 0) made->bytes[random_below(fuzz, made->size)] = (uint8_t)random_below(fuzz, 256);
      break;
    case 1: /* cut */
      made->size = random_below(fuzz, 3) == 0 ? random_below(fuzz, made->size + 1) : made->size - made->size % 8;
      if (made->size >= 8 && random_below(fuzz, 2)) made->size -= 8;
      break;
    case 2: { /* a part of another one at the end, or in the middle */
      const input *other = &fuzz->good[random_below(fuzz, KINDS)];
      uint32_t from = random_below(fuzz, other->size / 8 + 1) * 8, to = random_below(fuzz, made->size / 8 + 1) * 8;
      uint32_t size = other->size - from < MOST_BYTES - to ? other->size - from : MOST_BYTES - to;
      memcpy(made->bytes + to, other->bytes + from, size);
      if (random_below(fuzz, 2)) made->size = to + size;
      if (made->size < to + size) made->size = to + size;
      break;
    }
    case 3: /* the header: count, released */
      if (made->size >= MB_MESSAGE_HEADER) {
        uint32_t number = (uint32_t)some_number(fuzz, made->size);
        memcpy(made->bytes + (random_below(fuzz, 2) ? 12 : 16), &number, 4);
        if (random_below(fuzz, 8) == 0) made->bytes[5] ^= 1;
      }
      break;
    case 4: { /* a double word */
      if (words < 2) break;
      uint64_t number = some_number(fuzz, made->size);
      memcpy(made->bytes + random_below(fuzz, words / 2) * 8, &number, 8);
      break;
    }
    default: { /* a word, mostly one that is small and so a count, a size or a kind */
      if (words == 0) break;
      uint32_t at = random_below(fuzz, words), number = (uint32_t)some_number(fuzz, made->size), there;
      for (uint32_t tries = 0; tries < 8; tries++) {
        memcpy(&there, made->bytes + at * 4, 4);
        if (there != 0 && there < 0x10000) break;
        at = random_below(fuzz, words);
      }
      memcpy(made->bytes + at * 4, &number, 4);
    }
  }
}

/* ---- the daemon ------------------------------------------------------------------------------------------------ */

static volatile uint8_t sink;

static void look_at(fuzzer *fuzz, const mb_list *list) {
  for (uint32_t at = 0; at < list->count; at++) {
    const mb_buffer *buffer = list->items[at];
    fuzz->buffers++;
    if (buffer == NULL) continue;
    uint64_t size = mb_buffer_size(buffer), meta_size, word = 0;
    const uint8_t *bytes = mb_buffer_data(buffer), *meta = mb_buffer_meta(buffer, &meta_size);
    const char *code, *text;
    int64_t width;
    for (uint64_t byte = 0; byte<size; byte += size> 4096 ? 4096 : 1) sink = (uint8_t)(sink + bytes[byte]);
    if (size > 0) sink = (uint8_t)(sink + bytes[size - 1]);
    for (uint64_t byte = 0; byte < meta_size; byte++) sink = (uint8_t)(sink + meta[byte]);
    if (meta_size > 0) sink = (uint8_t)(sink + mb__host.meta_get_int(buffer, "width", &width));
    if (mb_buffer_error(buffer, &code, &text)) word = strlen(code) + strlen(text);
    char found[64];
    sink = (uint8_t)(sink + word + mb__is_of_type(buffer, MB_TYPE_IMAGE | MB_TYPE_STRING, found, sizeof found));
  }
}

/* All items and ids of a message, as reader.c and protocol.py read them. */
static bool read_body(fuzzer *fuzz, const uint8_t *bytes, uint64_t size, uint64_t used, uint32_t count,
                      uint32_t released) {
  mb_peer *peer = fuzz->link.receiver;
  mb_list *list = mb_list_new(0);
  bool good = true;
  for (uint32_t at = 0; good && at < count; at++) {
    mb_result_head head;
    const char *text;
    const uint8_t *meta;
    uint32_t meta_size;
    good = mb_read_result(bytes, size, &used, &head, &text, &error) == 0;
    for (uint32_t byte = 0; good && byte < head.text_size; byte++) sink = (uint8_t)(sink + (uint8_t)text[byte]);
    for (uint32_t port = 0; good && port < head.ports; port++) {
      good = mb_read_port(peer, bytes, size, &used, list, &meta, &meta_size, &error) == 0;
      for (uint32_t byte = 0; good && byte < meta_size; byte++) sink = (uint8_t)(sink + meta[byte]);
    }
  }
  look_at(fuzz, list);
  if (good && mb_read_released(peer, bytes, size, &used, released, &error) == 0) {
    fuzz->released += released;
  } else {
    good = false;
  }
  mb_list_free(list);
  return good && used == size;
}

static bool read_message(fuzzer *fuzz, const uint8_t *bytes, uint64_t size) {
  uint32_t count, released;
  if (size < MB_MESSAGE_HEADER || memcmp(bytes, "MBW1", 4) != 0 || (bytes[5] & ~MB_MESSAGE_LARGE)) return false;
  memcpy(&count, bytes + 12, 4);
  memcpy(&released, bytes + 16, 4);
  if (!(bytes[5] & MB_MESSAGE_LARGE)) return read_body(fuzz, bytes, size, MB_MESSAGE_HEADER, count, released);
  mb_list *list = mb_list_new(1);
  uint64_t used = MB_MESSAGE_HEADER;
  bool good = mb_peer_decode(fuzz->link.receiver, bytes, size, &used, 1, list, &error) == 0 && used == size;
  const mb_buffer *body = good ? list->items[0] : NULL;
  uint64_t body_size = body != NULL ? mb_buffer_size(body) : 0;
  good = body_size > 0 && body_size <= 64u << 20;
  if (good) {
    uint8_t *copy = malloc(body_size);
    memcpy(copy, mb_buffer_data(body), body_size);
    good = read_body(fuzz, copy, body_size, 0, count, released);
    free(copy);
  }
  mb_list_free(list);
  return good;
}

static void one(fuzzer *fuzz) {
  input made = fuzz->good[random_below(fuzz, KINDS)];
  for (uint32_t times = random_below(fuzz, 5); times > 0; times--) damage(fuzz, &made);
  uint8_t *exact = malloc(made.size > 0 ? made.size : 1);
  memcpy(exact, made.bytes, made.size);
  fuzz->accepted += read_message(fuzz, exact, made.size);
  free(exact);
  uint64_t ids[64], buffers, bytes;
  while (mb_peer_take_done(fuzz->link.receiver, ids, 64) > 0) {
  }
  mb_peer_lent(fuzz->link.receiver, &buffers, &bytes);
  if (buffers < fuzz->id_count) turn_over(fuzz);
}

int main(int argc, char **argv) {
  uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  fuzzer *fuzz = calloc(1, sizeof *fuzz);
  fuzz->state = seed * 0x9e3779b97f4a7c15ull + 1;
  fuzz->link = new_pair();
  fuzz->from_daemon = peer_list(fuzz->link.there);
  for (int more = 0; more < 4; more++) {
    mb_buffer *large = mb_buffer_new(fuzz->link.there, 5000, &error);
    mb_buffer_seal(large);
    CHECK(mb_list_push(fuzz->from_daemon, large) == 0);
  }
  mb_peer_limit(fuzz->link.receiver, 1024, 1ull << 34);
  lend_again(fuzz);
  for (int times = 0; times < 1000; times++) turn_over(fuzz); /* ids that look like nothing else */
  make_good(fuzz);
  turn_over(fuzz);
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (uint64_t done = 0; done < count; done++) one(fuzz);
  clock_gettime(CLOCK_MONOTONIC, &end);
  double seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
  printf("messages: %llu inputs in %.1f s, %llu accepted, %llu buffers seen, %llu given back\n",
         (unsigned long long)count, seconds, (unsigned long long)fuzz->accepted, (unsigned long long)fuzz->buffers,
         (unsigned long long)fuzz->released);
  /* Neither all nor nothing: the damage reaches every depth. */
  CHECK(count < 1000 || (fuzz->accepted > count / 20 && fuzz->accepted < count * 9 / 10 && fuzz->released > 0));
  mb_list_free(fuzz->from_daemon);
  mb_list_free(fuzz->at_worker);
  mb_peer_close(fuzz->link.sender);
  mb_peer_close(fuzz->link.receiver);
  mb_pool_stats here, there;
  mb_pool_get_stats(fuzz->link.here, &here);
  mb_pool_get_stats(fuzz->link.there, &there);
  CHECK(here.live_buffers == 0 && there.live_buffers == 0 && there.guard_faults == 0);
  free_pair(&fuzz->link);
  free(fuzz);
  return 0;
}
