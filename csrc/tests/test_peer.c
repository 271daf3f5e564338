/* Buffers across processes, with honest and damaged messages. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support.h"

static uint64_t encode(pair *link, mb_list *list, uint8_t *out, uint64_t capacity) {
  uint64_t used = 0;
  CHECK(mb_peer_encode(link->sender, list, 0, list->count, out, capacity, &used, &error) == (int32_t)list->count);
  uint32_t ids[8];
  int32_t fds[8];
  uint32_t count = mb_peer_take_fds(link->sender, ids, fds, 8);
  for (uint32_t at = 0; at < count; at++) CHECK(mb_peer_map(link->receiver, ids[at], fds[at], 1 << 30, &error) == 0);
  return used;
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

static void check_mapped(mb_peer *peer, uint32_t arenas) {
  uint32_t count;
  uint64_t bytes;
  mb_peer_mapped(peer, &count, &bytes);
  CHECK(count == arenas && (bytes > 0) == (arenas > 0));
}

/* What is mapped of a peer is limited, and buffers that keep a mapping count until they go. */
static void test_peer_limits(void) {
  pair link = new_pair();
  mb_list *list = peer_list(link.here), *got = mb_list_new(0);
  uint8_t wire[8192];
  uint64_t size = encode(&link, list, wire, sizeof wire), used = 0;
  CHECK(mb_peer_decode(link.receiver, wire, size, &used, 11, got, &error) == 0);
  check_mapped(link.receiver, 1);
  mb_arena *arena = list->items[10]->data->arena;
  CHECK(mb_peer_unmap(link.receiver, arena->id) == 0 && mb_peer_unmap(link.receiver, arena->id) == -MB_NOTFOUND);
  check_mapped(link.receiver, 1);
  mb_peer_limit(link.receiver, 1, UINT64_MAX);
  CHECK(mb_peer_map(link.receiver, 5, arena->fd, UINT64_MAX, &error) == -MB_NOBUFS);
  mb_peer_limit(link.receiver, 9, arena->size);
  CHECK(mb_peer_map(link.receiver, 5, arena->fd, UINT64_MAX, &error) == -MB_INVALID);
  mb_peer_limit(link.receiver, 9, arena->size * 2);
  CHECK(mb_peer_map(link.receiver, 5, arena->fd, UINT64_MAX, &error) == 0);
  check_mapped(link.receiver, 2);
  mb_list_free(got);
  check_mapped(link.receiver, 1);
  /* Closed: nothing is lent or known any more, and all goes on without a crash. */
  uint64_t buffers, bytes, id = 1ull << 32;
  mb_peer_close(link.receiver);
  mb_peer_close(link.sender);
  check_mapped(link.receiver, 0);
  mb_peer_lent(link.sender, &buffers, &bytes);
  CHECK(buffers == 0 && bytes == 0 && mb_peer_release(link.sender, &id, 1, &error) == -MB_INVALID);
  CHECK(mb_peer_unmap(link.receiver, 5) == -MB_NOTFOUND);
  mb_list_free(list);
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

void test_peer_links(void) {
  test_peers();
  test_peer_refuses_unsealed();
  test_peer_limits();
  test_peer_fuzz();
}
