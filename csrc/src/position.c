/* Positions over several lists: which values a unit gets, and what becomes of the others. */
#include "internal.h"

int32_t mb__position(mb_buffer *const *const *inputs, uint32_t ports, uint32_t at, uint32_t visible, uint32_t *port) {
  int32_t kind = MB_SEEN;
  for (uint32_t number = 0; number < ports; number++) {
    const mb_buffer *buffer = inputs[number][at];
    if (mb__is_seen(buffer, visible)) continue;
    if (buffer == NULL) {
      if (port != NULL) *port = number;
      return MB_HOLE;
    }
    if (kind == MB_SEEN) {
      kind = MB_ERROR;
      if (port != NULL) *port = number;
    }
  }
  return kind;
}

int32_t mb_lists_kind(mb_list *const *inputs, uint32_t ports, uint32_t at, uint32_t visible, uint32_t *port) {
  mb_buffer *const *items[MAX_PORTS];
  for (uint32_t number = 0; number < ports && number < MAX_PORTS; number++) items[number] = inputs[number]->items;
  return mb__position(items, ports, at, visible, port);
}

static bool is_seen(mb_list *const *inputs, uint32_t ports, uint32_t at, uint32_t visible) {
  for (uint32_t number = 0; number < ports; number++) {
    if (!mb__is_seen(inputs[number]->items[at], visible)) return false;
  }
  return true;
}

uint32_t mb_lists_unseen(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t count, uint32_t visible) {
  uint32_t unseen = 0;
  for (uint32_t at = from; at < from + count; at++) {
    if (!is_seen(inputs, ports, at, visible)) unseen++;
  }
  return unseen;
}

uint32_t mb_lists_run(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t visible) {
  uint32_t count = inputs[0]->count;
  if (from >= count) return 0;
  bool seen = is_seen(inputs, ports, from, visible);
  uint32_t at = from + 1;
  while (at < count && is_seen(inputs, ports, at, visible) == seen) at++;
  return at - from;
}

int32_t mb_lists_split(mb_list *const *inputs, uint32_t ports, uint32_t visible, mb_list *const *kept) {
  for (uint32_t at = 0; at < inputs[0]->count; at++) {
    if (!is_seen(inputs, ports, at, visible)) continue;
    for (uint32_t number = 0; number < ports; number++) {
      int32_t status = mb_list_extend(kept[number], inputs[number], at, 1);
      if (status != 0) return status;
    }
  }
  return 0;
}

int32_t mb_lists_merge(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t count, uint32_t visible,
                       const mb_list *results, uint32_t *next, mb_list *out) {
  for (uint32_t at = from; at < from + count; at++) {
    uint32_t port = 0;
    mb_buffer *value = NULL;
    int32_t kind = mb_lists_kind(inputs, ports, at, visible, &port);
    if (kind == MB_ERROR) {
      value = inputs[port]->items[at];
    } else if (kind == MB_SEEN && results != NULL) {
      if (*next >= results->count) return -MB_RANGE;
      value = results->items[(*next)++];
    }
    int32_t status = mb_list_push(out, mb_buffer_ref(value));
    if (status != 0) return status;
  }
  return 0;
}

int32_t mb_lists_choose(mb_list *const *lanes, uint32_t count, mb_list *out, uint32_t *at) {
  for (uint32_t position = 0; position < lanes[0]->count; position++) {
    mb_buffer *value = NULL;
    for (uint32_t lane = 0; lane < count; lane++) {
      mb_buffer *item = lanes[lane]->items[position];
      if (item == NULL) continue;
      if (value != NULL) {
        *at = position;
        return -MB_EXIST;
      }
      value = item;
    }
    int32_t status = mb_list_push(out, mb_buffer_ref(value));
    if (status != 0) return status;
  }
  return 0;
}

int64_t mb_list_fatal(const mb_list *list, uint32_t from, uint32_t count) {
  for (uint32_t at = from; at < list->count && at - from < count; at++) {
    if (list->items[at] != NULL && list->items[at]->fatal) return at;
  }
  return -1;
}

void mb_list_born(mb_list *list, uint32_t from, uint32_t depth) {
  for (uint32_t at = from; at < list->count; at++) mb__born(list->items[at], depth);
}
