/* Calls and results between daemon and worker, whole and damaged. */
#include "support.h"

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

void test_message_formats(void) {
  test_messages();
  test_messages_hostile();
}
