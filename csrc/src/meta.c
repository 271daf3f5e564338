/* Flat meta blocks: one form in memory and on the wire (drawn in core.h). */
#include "internal.h"

typedef struct mb_entry {
  uint8_t type;
  uint8_t key_size;
  uint16_t zero;
  uint32_t value_size;
} mb_entry;

static uint64_t key_space(const mb_entry *entry) { return mb__round(entry->key_size, 8); }

static uint64_t value_space(const mb_entry *entry) {
  uint64_t size = entry->value_size;
  if (entry->type == MB_META_STRING) size++; /* room for the NUL */
  return mb__round(size, 8);
}

static uint64_t entry_space(const mb_entry *entry) { return sizeof *entry + key_space(entry) + value_space(entry); }

static bool strings_fit(const uint8_t *value, uint32_t size) {
  uint64_t at = 0;
  while (at < size) {
    uint32_t length;
    if (size - at < sizeof length) return false;
    memcpy(&length, value + at, sizeof length);
    at += sizeof length;
    if (length > size - at) return false;
    at += length;
  }
  return true;
}

static bool value_fits(int32_t type, const uint8_t *value, uint64_t size) {
  switch (type) {
    case MB_META_INT:
    case MB_META_DOUBLE:
    case MB_META_DTYPE:
      return size == 8;
    case MB_META_BOOL: {
      uint64_t word;
      if (size != 8) return false;
      memcpy(&word, value, 8);
      return word <= 1;
    }
    case MB_META_INTS:
    case MB_META_DOUBLES:
      return size % 8 == 0;
    case MB_META_BOOLS:
      if (size % 8 != 0) return false;
      for (uint64_t at = 0; at < size; at += 8) {
        uint64_t word;
        memcpy(&word, value + at, 8);
        if (word > 1) return false;
      }
      return true;
    case MB_META_STRING:
      return size == 0 || memchr(value, 0, size) == NULL;
    case MB_META_STRINGS:
      return strings_fit(value, (uint32_t)size);
    case MB_META_OBJECT:
      return true;
    default:
      return false;
  }
}

static bool is_zero(const uint8_t *bytes, uint64_t size) {
  for (uint64_t at = 0; at < size; at++) {
    if (bytes[at] != 0) return false;
  }
  return true;
}

typedef struct mb_key {
  const uint8_t *bytes;
  uint32_t size;
} mb_key;

static int compare_keys(const void *left, const void *right) {
  const mb_key *one = left, *other = right;
  if (one->size != other->size) return one->size < other->size ? -1 : 1;
  return memcmp(one->bytes, other->bytes, one->size);
}

/* Whether no key of a block, whose entries fit, occurs twice. By sorting, since a hostile block may have 40,000 of them
 * and must not cost their square. */
static int32_t keys_differ(const uint8_t *bytes, uint64_t size, uint32_t count) {
  mb_key few[32], *keys = count <= 32 ? few : malloc(count * sizeof *keys);
  if (keys == NULL) return -MB_NOMEM;
  uint64_t at = 0;
  for (uint32_t done = 0; done < count && at < size; done++) {
    mb_entry entry;
    memcpy(&entry, bytes + at, sizeof entry);
    keys[done] = (mb_key){bytes + at + sizeof entry, entry.key_size};
    at += entry_space(&entry);
  }
  int32_t status = 0;
  if (count > 1) qsort(keys, count, sizeof *keys, compare_keys);
  for (uint32_t done = 1; done < count && status == 0; done++) {
    if (compare_keys(&keys[done - 1], &keys[done]) == 0) status = -MB_INVALID;
  }
  if (keys != few) free(keys);
  return status;
}

int32_t mb_meta_check(const uint8_t *bytes, uint64_t size) {
  uint32_t count = 0;
  if (size > MB_META_MAX_SIZE || size % 8 != 0) return -MB_INVALID;
  for (uint64_t at = 0; at < size; count++) {
    mb_entry entry;
    if (size - at < sizeof entry) return -MB_INVALID;
    memcpy(&entry, bytes + at, sizeof entry);
    if (entry.zero != 0 || entry.key_size == 0 || entry_space(&entry) > size - at) return -MB_INVALID;
    const uint8_t *key = bytes + at + sizeof entry;
    const uint8_t *value = key + key_space(&entry);
    if (memchr(key, 0, entry.key_size) != NULL) return -MB_INVALID;
    if (!is_zero(key + entry.key_size, key_space(&entry) - entry.key_size)) return -MB_INVALID;
    if (!value_fits(entry.type, value, entry.value_size)) return -MB_INVALID;
    if (!is_zero(value + entry.value_size, value_space(&entry) - entry.value_size)) return -MB_INVALID;
    at += entry_space(&entry);
  }
  return keys_differ(bytes, size, count);
}

mb_meta *mb__meta_new(uint32_t capacity) {
  mb_meta *meta = malloc(mb__round(sizeof *meta, 8) + capacity);
  if (meta == NULL) return NULL;
  atomic_init(&meta->refs, 1);
  meta->size = 0;
  meta->capacity = capacity;
  meta->bytes = (uint8_t *)meta + mb__round(sizeof *meta, 8);
  return meta;
}

mb_meta *mb__meta_ref(mb_meta *meta) {
  if (meta != NULL) atomic_fetch_add_explicit(&meta->refs, 1, memory_order_relaxed);
  return meta;
}

void mb__meta_unref(mb_meta *meta) {
  if (meta != NULL && atomic_fetch_sub_explicit(&meta->refs, 1, memory_order_acq_rel) == 1) free(meta);
}

int64_t mb__meta_find(const mb_meta *meta, const char *key, size_t key_size) {
  if (meta == NULL) return -1;
  for (uint32_t at = 0; at < meta->size;) {
    const mb_entry *entry = (const mb_entry *)(meta->bytes + at);
    if (entry->key_size == key_size && memcmp(meta->bytes + at + sizeof *entry, key, key_size) == 0) return at;
    at += (uint32_t)entry_space(entry);
  }
  return -1;
}

int32_t mb__meta_get(const mb_meta *meta, const char *key, const uint8_t **value, uint64_t *size) {
  int64_t at = mb__meta_find(meta, key, strlen(key));
  if (at < 0) return -MB_NOTFOUND;
  const mb_entry *entry = (const mb_entry *)(meta->bytes + at);
  *value = meta->bytes + at + sizeof *entry + key_space(entry);
  *size = entry->value_size;
  return entry->type;
}

/* Makes *meta ours alone with room for `extra` more bytes. */
static int32_t make_room(mb_meta **meta, uint64_t extra) {
  mb_meta *old = *meta;
  uint64_t size = old == NULL ? 0 : old->size;
  if (size + extra > MB_META_MAX_SIZE) return -MB_RANGE;
  if (old != NULL && atomic_load(&old->refs) == 1 && size + extra <= old->capacity) return 0;
  mb_meta *own = mb__meta_new((uint32_t)mb__round(size + extra + 192, 64));
  if (own == NULL) return -MB_NOMEM;
  if (old != NULL) memcpy(own->bytes, old->bytes, old->size);
  own->size = (uint32_t)size;
  mb__meta_unref(old);
  *meta = own;
  return 0;
}

static void cut(mb_meta *meta, int64_t at) {
  const mb_entry *entry = (const mb_entry *)(meta->bytes + at);
  uint64_t space = entry_space(entry);
  memmove(meta->bytes + at, meta->bytes + at + space, meta->size - (uint64_t)at - space);
  meta->size -= (uint32_t)space;
}

static void append(mb_meta *meta, const mb_entry *entry, const char *key, const void *value) {
  uint8_t *to = meta->bytes + meta->size;
  uint64_t space = entry_space(entry);
  memset(to, 0, space);
  memcpy(to, entry, sizeof *entry);
  memcpy(to + sizeof *entry, key, entry->key_size);
  if (entry->value_size > 0) memcpy(to + sizeof *entry + key_space(entry), value, entry->value_size);
  meta->size += (uint32_t)space;
}

int32_t mb__meta_set(mb_meta **meta, const char *key, int32_t type, const void *value, uint64_t size) {
  size_t key_size = strlen(key);
  if (key_size == 0 || key_size > 255 || size > MB_META_MAX_SIZE) return -MB_RANGE;
  if (!value_fits(type, value, size)) return -MB_INVALID;
  mb_entry entry = {(uint8_t)type, (uint8_t)key_size, 0, (uint32_t)size};
  int32_t status = make_room(meta, entry_space(&entry));
  if (status != 0) return status;
  int64_t at = mb__meta_find(*meta, key, key_size);
  if (at >= 0) {
    mb_entry *there = (mb_entry *)((*meta)->bytes + at);
    if (there->type == type && there->value_size == size) { /* the usual update in place */
      memcpy((*meta)->bytes + at + sizeof entry + key_space(&entry), value, size);
      return 0;
    }
    cut(*meta, at);
  }
  append(*meta, &entry, key, value);
  return 0;
}

int32_t mb__meta_remove(mb_meta **meta, const char *key) {
  if (mb__meta_find(*meta, key, strlen(key)) < 0) return -MB_NOTFOUND;
  int32_t status = make_room(meta, 0);
  if (status != 0) return status;
  cut(*meta, mb__meta_find(*meta, key, strlen(key)));
  return 0;
}

int32_t mb__meta_merge(mb_meta **to, const mb_meta *from) {
  if (from == NULL || from->size == 0) return 0;
  if (*to == NULL || (*to)->size == 0) {
    mb__meta_unref(*to);
    *to = mb__meta_ref((mb_meta *)from); /* shared until one side writes */
    return 0;
  }
  for (uint32_t at = 0; at < from->size;) {
    const mb_entry *entry = (const mb_entry *)(from->bytes + at);
    const char *key = (const char *)(from->bytes + at + sizeof *entry);
    if (mb__meta_find(*to, key, entry->key_size) < 0) {
      int32_t status = make_room(to, entry_space(entry));
      if (status != 0) return status;
      append(*to, entry, key, from->bytes + at + sizeof *entry + key_space(entry));
    }
    at += (uint32_t)entry_space(entry);
  }
  return 0;
}
