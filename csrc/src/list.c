/* Lists of buffers. */
#include "internal.h"

static bool grow(mb_list *list, uint32_t extra) {
  if (list->capacity - list->count >= extra) return true;
  uint64_t wanted = (uint64_t)list->count + extra;
  uint64_t capacity = (uint64_t)list->capacity * 2 > wanted ? (uint64_t)list->capacity * 2 : wanted;
  if (capacity > UINT32_MAX) return false;
  mb_buffer **items = realloc(list->items, capacity * sizeof *items);
  if (items == NULL) return false;
  list->items = items;
  list->capacity = (uint32_t)capacity;
  return true;
}

static void append(mb_list *list, mb_buffer *buffer) {
  list->items[list->count++] = buffer;
  if (buffer != NULL) list->bytes += buffer->size;
}

mb_list *mb_list_new(uint32_t capacity) {
  mb_list *list = calloc(1, sizeof *list);
  if (list != NULL && !grow(list, capacity > 0 ? capacity : 1)) {
    free(list);
    return NULL;
  }
  return list;
}

void mb_list_free(mb_list *list) {
  if (list == NULL) return;
  for (uint32_t at = 0; at < list->count; at++) mb_buffer_unref(list->items[at]);
  free(list->items);
  free(list);
}

int32_t mb_list_push(mb_list *list, mb_buffer *buffer) {
  if (!grow(list, 1)) {
    mb_buffer_unref(buffer);
    return -MB_NOMEM;
  }
  append(list, buffer);
  return 0;
}

int32_t mb_list_extend(mb_list *list, const mb_list *other, uint32_t from, uint32_t count) {
  if (from > other->count || count > other->count - from) return -MB_RANGE;
  if (!grow(list, count)) return -MB_NOMEM;
  for (uint32_t at = from; at < from + count; at++) append(list, mb_buffer_ref(other->items[at]));
  return 0;
}

mb_list *mb_list_take(mb_list *list, uint32_t count) {
  if (count > list->count) count = list->count;
  mb_list *taken = mb_list_new(count);
  if (taken == NULL) return NULL;
  for (uint32_t at = 0; at < count; at++) append(taken, list->items[at]);
  memmove(list->items, list->items + count, (list->count - count) * sizeof *list->items);
  list->count -= count;
  list->bytes -= taken->bytes;
  return taken;
}

uint32_t mb_list_errors(const mb_list *list, uint32_t from, uint32_t count) {
  uint32_t errors = 0;
  for (uint32_t at = from; at < list->count && at - from < count; at++) {
    if (list->items[at] != NULL && list->items[at]->fault != NULL) errors++;
  }
  return errors;
}
