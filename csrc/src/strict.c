/* Strict ports: whether buffers are what a port's type insists on. */
#include <stdio.h>

#include "internal.h"

static uint64_t element_size(int64_t dtype) {
  switch (dtype) {
    case MB_DTYPE_UINT8:
    case MB_DTYPE_INT8:
    case MB_DTYPE_BOOL:
      return 1;
    case MB_DTYPE_INT16:
    case MB_DTYPE_UINT16:
    case MB_DTYPE_HALF:
    case MB_DTYPE_BFLOAT16:
      return 2;
    case MB_DTYPE_FLOAT:
    case MB_DTYPE_INT32:
    case MB_DTYPE_UINT32:
      return 4;
    case MB_DTYPE_DOUBLE:
    case MB_DTYPE_INT64:
    case MB_DTYPE_UINT64:
      return 8;
    default:
      return 0;
  }
}

/* A whole number of the meta; -1 when it is missing, of another type, or negative. */
static int64_t whole(const mb_buffer *buffer, const char *key) {
  const uint8_t *value;
  uint64_t size;
  int64_t number = -1;
  int32_t type = mb_buffer_meta_get(buffer, key, &value, &size);
  if (type == MB_META_INT || type == MB_META_DTYPE) memcpy(&number, value, sizeof number);
  return number < 0 ? -1 : number;
}

static bool is_tensor(const mb_buffer *buffer, char *found, size_t room) {
  uint64_t each = element_size(whole(buffer, "type"));
  if (each == 0) {
    snprintf(found, room, "no meta 'type' of a number");
    return false;
  }
  const uint8_t *shape;
  uint64_t size, bytes = each;
  if (mb_buffer_meta_get(buffer, "shape", &shape, &size) != MB_META_INTS) {
    snprintf(found, room, "no meta 'shape' of whole numbers");
    return false;
  }
  bool fits = true;
  for (uint64_t at = 0; at < size; at += 8) {
    int64_t length;
    memcpy(&length, shape + at, sizeof length);
    fits = fits && length >= 0 && !__builtin_mul_overflow(bytes, (uint64_t)length, &bytes);
  }
  if (!fits || bytes != buffer->size) {
    snprintf(found, room, "%llu bytes, which 'shape' and 'type' do not make", (unsigned long long)buffer->size);
    return false;
  }
  return true;
}

/* `text` is not terminated where it comes from. */
static bool is_word(const char *text, uint64_t size, const char *word) {
  return size == strlen(word) && memcmp(text, word, size) == 0;
}

static bool is_image(const mb_buffer *buffer, char *found, size_t room) {
  int64_t width = whole(buffer, "width"), height = whole(buffer, "height");
  if (width <= 0 || height <= 0) {
    snprintf(found, room, "no meta '%s' above 0", width <= 0 ? "width" : "height");
    return false;
  }
  const uint8_t *value;
  uint64_t size;
  if (mb_buffer_meta_get(buffer, "pix_fmt", &value, &size) != MB_META_STRING) {
    snprintf(found, room, "no meta 'pix_fmt'");
    return false;
  }
  static const char *const words[] = {"rgb", "bgr", "rgbp", "bgrp", "gray", "nv12"};
  size_t word = 0;
  while (word < 6 && !is_word((const char *)value, size, words[word])) word++;
  if (word == 6) {
    snprintf(found, room, "pix_fmt '%.*s'", (int)(size < 32 ? size : 32), (const char *)value);
    return false;
  }
  uint64_t elements, each = element_size(whole(buffer, "type"));
  bool fits = !__builtin_mul_overflow((uint64_t)width, (uint64_t)height, &elements);
  uint64_t twice = word < 4 ? 6 : word == 4 ? 2 : 3; /* elements of a pixel, doubled: nv12 has one and a half */
  fits = fits && !__builtin_mul_overflow(elements, twice * each, &elements);
  if (!fits || elements / 2 != buffer->size) {
    snprintf(found, room, "%llu bytes, which %lld x %lld pixels of %s do not make", (unsigned long long)buffer->size,
             (long long)width, (long long)height, words[word]);
    return false;
  }
  return true;
}

bool mb__is_of_type(const mb_buffer *buffer, uint32_t types, char *found, size_t room) {
  if (buffer == NULL || buffer->fault != NULL) return true;
  if ((types & MB_TYPE_STRING) && buffer->kind != MB_KIND_STRING) {
    snprintf(found, room, "no text, %llu bytes", (unsigned long long)buffer->size);
    return false;
  }
  if (types & (MB_TYPE_TENSOR | MB_TYPE_IMAGE)) {
    if (buffer->kind == MB_KIND_STRING) {
      snprintf(found, room, "text");
      return false;
    }
    if ((types & MB_TYPE_IMAGE) && !is_image(buffer, found, room)) return false;
    if (!is_tensor(buffer, found, room)) return false;
  }
  return true;
}

int64_t mb_list_misfit(const mb_list *list, uint32_t types, char *found, uint32_t room) {
  for (uint32_t at = 0; at < list->count; at++) {
    if (!mb__is_of_type(list->items[at], types, found, room)) return at;
  }
  return -1;
}
