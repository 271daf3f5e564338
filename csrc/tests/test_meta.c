/* Flat typed meta, whole and damaged. */
#include "support.h"

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

/* As many keys as fit: checked in a moment, and the one that occurs twice is found wherever it stands. */
static void test_many_keys(void) {
  const uint32_t count = MB_META_MAX_SIZE / 24;
  uint8_t *block = calloc(count, 24);
  for (uint32_t at = 0; at < count; at++) {
    uint8_t *entry = block + at * 24;
    entry[0] = MB_META_INT;
    entry[1] = 4;
    entry[4] = 8;
    uint32_t key = at + 0x01010101u; /* no zero bytes */
    for (int byte = 0; byte < 4; byte++) entry[8 + byte] = (uint8_t)((key >> (byte * 7)) | 0x80);
  }
  CHECK(mb_meta_check(block, count * 24) == 0);
  memcpy(block + 8, block + (count - 1) * 24 + 8, 4);
  CHECK(mb_meta_check(block, count * 24) == -MB_INVALID);
  free(block);
}

void test_metas(void) {
  test_many_keys();
  test_meta();
  test_meta_fuzz();
}
