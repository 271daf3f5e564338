/* Lists of buffers. */
#include "support.h"

static void test_lists(void) {
  mb_pool *pool = new_pool(0);
  mb_list *list = mixed_list(pool);
  mb_list *kept = mb_list_new(0), *merged = mb_list_new(0);
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 0) == 2 && mb_lists_split(&list, 1, 0, &kept) == 0 && kept->count == 8);
  uint32_t next = 0;
  CHECK(mb_lists_merge(&list, 1, 0, 10, 0, kept, &next, merged) == 0 && next == 8);
  for (uint32_t at = 0; at < 10; at++) CHECK(merged->items[at] == list->items[at]);
  CHECK(mb_lists_merge(&list, 1, 0, 10, 0, kept, &next, merged) == -MB_RANGE);
  CHECK(mb_lists_run(&list, 1, 0, 0) == 2 && mb_lists_run(&list, 1, 2, 0) == 1 && mb_lists_run(&list, 1, 10, 0) == 0);
  /* An error is seen by units at its depth and further out. */
  mb_list_born(list, 0, 2);
  mb_list_born(list, 0, 7); /* it keeps its depth */
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 3) == 1 && mb_lists_unseen(&list, 1, 0, 10, 1) == 1);
  CHECK(mb_lists_unseen(&list, 1, 0, 10, 4) == 2 && mb_buffer_born(list->items[2]) == 3);
  uint32_t port = 9;
  mb_list *both[2] = {list, kept}; /* kept[2] is good, list[2] is the error; list[5] is a hole */
  CHECK(mb_lists_kind(both, 2, 2, 0, &port) == MB_ERROR && port == 0);
  mb_list *turned[2] = {kept, list};
  CHECK(mb_lists_kind(turned, 2, 5, 0, &port) == MB_HOLE && port == 1);
  /* Where branches meet: one value per position. */
  mb_list *left = mb_list_new(0), *right = mb_list_new(0), *met = mb_list_new(0), *lanes[2] = {left, right};
  for (uint32_t at = 0; at < 4; at++) {
    mb_list_push(left, at == 1 ? mb_buffer_ref(list->items[0]) : NULL);
    mb_list_push(right, at == 1 || at == 3 ? NULL : mb_buffer_ref(list->items[at]));
  }
  CHECK(mb_lists_choose(lanes, 2, met, &port) == 0 && met->count == 4 && met->items[3] == NULL);
  CHECK(met->items[1] == list->items[0] && met->items[2] == list->items[2]);
  mb_buffer_unref(left->items[2]);
  left->items[2] = mb_buffer_ref(list->items[4]);
  CHECK(mb_lists_choose(lanes, 2, met, &port) == -MB_EXIST && port == 2);
  mb_list_free(left);
  mb_list_free(right);
  mb_list_free(met);
  mb_list *head = mb_list_take(list, 4);
  CHECK(head->count == 4 && list->count == 6 && list->items[1] == NULL);
  CHECK(mb_list_extend(head, list, 5, 2) == -MB_RANGE && mb_list_extend(head, list, UINT32_MAX, 1) == -MB_RANGE);
  mb_list_free(list);
  mb_list_free(kept);
  mb_list_free(merged);
  mb_list_free(head);
  mb_pool_free(pool);
}

void test_list_functions(void) { test_lists(); }
