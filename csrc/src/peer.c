/*
 * Buffers across a process boundary: what is lent, what was lent to us, and the encoded form between.
 * Everything that decodes treats its input as hostile.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "internal.h"

#define MAX_FAULT 65536u

typedef struct mb_encoded {
  uint8_t where;
  uint8_t kind;
  uint16_t born; /* of errors: see mb_buffer_born */
  uint32_t meta_size;
  uint32_t error_size;
  uint32_t arena;
  uint64_t offset;
  uint64_t size;
  uint64_t id;
} mb_encoded;

_Static_assert(sizeof(mb_encoded) == MB_ENCODED_SIZE, "an encoded buffer has no padding");

/* Ids to give back to the other side, and what of its memory is mapped here; outlives the peer while buffers or
 * mappings of it live. */
struct mb_done {
  atomic_uint refs;
  pthread_mutex_t lock;
  uint64_t *ids;
  uint32_t count, capacity;
  uint32_t arenas; /* mapped, known by their number or kept by buffers alone */
  uint64_t arena_bytes;
};

typedef struct mb_lend {
  mb_data *data; /* NULL: free */
  uint32_t generation;
  uint32_t next_free;
} mb_lend;

typedef struct mb_sent {
  mb_arena *arena;
  bool announced; /* its descriptor was handed out by take_fds */
} mb_sent;

typedef struct mb_mapped {
  uint32_t number; /* the other side's */
  mb_arena *arena;
} mb_mapped;

struct mb_peer {
  pthread_mutex_t lock;
  mb_pool *pool;
  uint32_t inline_limit;
  bool private_maps;
  uint32_t max_arenas; /* of the other side, mapped at a time */
  uint64_t max_arena_bytes;
  mb_done *done;
  mb_lend *lends;
  uint32_t lend_count, lend_capacity, free_lend;
  uint64_t lent_buffers, lent_bytes;
  mb_sent *sent;
  uint32_t sent_count, sent_capacity;
  mb_mapped *mapped;
  uint32_t mapped_count, mapped_capacity;
};

#define NO_LEND UINT32_MAX

/* Makes room for one more item of an array; false when memory is out. */
static bool grow(void **items, uint32_t count, uint32_t *capacity, size_t size) {
  if (count < *capacity) return true;
  uint32_t wanted = *capacity == 0 ? 16 : *capacity * 2;
  void *larger = realloc(*items, (size_t)wanted * size);
  if (larger == NULL) return false;
  *items = larger;
  *capacity = wanted;
  return true;
}

/* ---- what was lent to us ------------------------------------------------------------------------------ */

static mb_done *done_ref(mb_done *done) {
  atomic_fetch_add_explicit(&done->refs, 1, memory_order_relaxed);
  return done;
}

static void done_unref(mb_done *done) {
  if (atomic_fetch_sub_explicit(&done->refs, 1, memory_order_acq_rel) != 1) return;
  pthread_mutex_destroy(&done->lock);
  free(done->ids);
  free(done);
}

void mb__done_release(mb_data *data) {
  mb_arena *arena = data->arena;
  if (atomic_load(&data->scribbled)) {
    /* Drop our private copies of these pages, or later data at this place would stay hidden behind them. The
     * block has its pages for itself (pool.c). */
    uintptr_t first = (uintptr_t)data->bytes / MB_PAGE * MB_PAGE;
    uintptr_t end = mb__round((uintptr_t)data->bytes + data->size, MB_PAGE);
    madvise((void *)first, end - first, MADV_DONTNEED);
  }
  mb_done *done = data->done;
  pthread_mutex_lock(&done->lock);
  if (grow((void **)&done->ids, done->count, &done->capacity, sizeof *done->ids))
    done->ids[done->count++] = data->lend_id;
  pthread_mutex_unlock(&done->lock);
  mb__arena_unref(arena);
  done_unref(done);
  free(data);
}

void mb__arena_gone(mb_done *owner, uint64_t size) {
  pthread_mutex_lock(&owner->lock);
  owner->arenas--;
  owner->arena_bytes -= size;
  pthread_mutex_unlock(&owner->lock);
  done_unref(owner);
}

/* ---- the peer -------------------------------------------------------------------------------------------- */

mb_peer *mb_peer_new(mb_pool *pool, uint32_t inline_limit, int32_t private_maps, mb_error *error) {
  mb_peer *peer = calloc(1, sizeof *peer);
  mb_done *done = calloc(1, sizeof *done);
  if (peer == NULL || done == NULL) {
    free(peer);
    free(done);
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  atomic_init(&done->refs, 1);
  pthread_mutex_init(&done->lock, NULL);
  pthread_mutex_init(&peer->lock, NULL);
  peer->pool = pool;
  peer->inline_limit = inline_limit;
  peer->private_maps = private_maps != 0;
  peer->max_arenas = UINT32_MAX;
  peer->max_arena_bytes = UINT64_MAX;
  peer->done = done;
  peer->free_lend = NO_LEND;
  return peer;
}

void mb_peer_close(mb_peer *peer) {
  pthread_mutex_lock(&peer->lock);
  mb_peer old = *peer;
  peer->lends = NULL;
  peer->sent = NULL;
  peer->mapped = NULL;
  peer->lend_count = peer->lend_capacity = peer->sent_count = peer->sent_capacity = 0;
  peer->mapped_count = peer->mapped_capacity = 0;
  peer->free_lend = NO_LEND;
  peer->lent_buffers = peer->lent_bytes = 0;
  pthread_mutex_unlock(&peer->lock);
  for (uint32_t at = 0; at < old.lend_count; at++) mb__data_unref(old.lends[at].data);
  for (uint32_t at = 0; at < old.sent_count; at++) mb__arena_unref(old.sent[at].arena);
  for (uint32_t at = 0; at < old.mapped_count; at++) mb__arena_unref(old.mapped[at].arena);
  free(old.lends);
  free(old.sent);
  free(old.mapped);
}

void mb_peer_free(mb_peer *peer) {
  if (peer == NULL) return;
  mb_peer_close(peer);
  done_unref(peer->done);
  pthread_mutex_destroy(&peer->lock);
  free(peer);
}

static mb_mapped *find_mapped(mb_peer *peer, uint32_t number) {
  for (uint32_t at = 0; at < peer->mapped_count; at++) {
    if (peer->mapped[at].number == number) return &peer->mapped[at];
  }
  return NULL;
}

void mb_peer_limit(mb_peer *peer, uint32_t arenas, uint64_t arena_bytes) {
  pthread_mutex_lock(&peer->lock);
  peer->max_arenas = arenas;
  peer->max_arena_bytes = arena_bytes;
  pthread_mutex_unlock(&peer->lock);
}

void mb_peer_mapped(mb_peer *peer, uint32_t *arenas, uint64_t *arena_bytes) {
  pthread_mutex_lock(&peer->done->lock);
  *arenas = peer->done->arenas;
  *arena_bytes = peer->done->arena_bytes;
  pthread_mutex_unlock(&peer->done->lock);
}

int32_t mb_peer_map(mb_peer *peer, uint32_t number, int32_t fd, uint64_t max_size, mb_error *error) {
  pthread_mutex_lock(&peer->lock);
  int32_t status = 0;
  uint32_t arenas;
  uint64_t bytes;
  mb_peer_mapped(peer, &arenas, &bytes); /* can only fall meanwhile: all that maps holds the lock */
  uint64_t left = peer->max_arena_bytes - (bytes < peer->max_arena_bytes ? bytes : peer->max_arena_bytes);
  if (find_mapped(peer, number) != NULL) {
    status = mb__fail(error, MB_INVALID, "arena %u was offered twice", number);
  } else if (arenas >= peer->max_arenas) {
    status = mb__fail(error, MB_NOBUFS, "more than %u arenas", peer->max_arenas);
  } else if (!grow((void **)&peer->mapped, peer->mapped_count, &peer->mapped_capacity, sizeof *peer->mapped)) {
    status = mb__fail(error, MB_NOMEM, "out of memory");
  } else {
    mb_arena *arena = mb__arena_map(fd, peer->private_maps, max_size < left ? max_size : left, error);
    if (arena != NULL) {
      arena->owner = done_ref(peer->done);
      pthread_mutex_lock(&peer->done->lock);
      peer->done->arenas++;
      peer->done->arena_bytes += arena->size;
      pthread_mutex_unlock(&peer->done->lock);
      peer->mapped[peer->mapped_count++] = (mb_mapped){number, arena};
    } else {
      status = -MB_INVALID;
    }
  }
  pthread_mutex_unlock(&peer->lock);
  return status;
}

int32_t mb_peer_unmap(mb_peer *peer, uint32_t number) {
  pthread_mutex_lock(&peer->lock);
  mb_mapped *mapped = find_mapped(peer, number);
  mb_arena *arena = mapped != NULL ? mapped->arena : NULL;
  if (mapped != NULL) *mapped = peer->mapped[--peer->mapped_count];
  pthread_mutex_unlock(&peer->lock);
  mb__arena_unref(arena);
  return arena != NULL ? 0 : -MB_NOTFOUND;
}

/* ---- lending (lock held) ---------------------------------------------------------------------------------- */

static bool send_arena(mb_peer *peer, mb_arena *arena) {
  for (uint32_t at = peer->sent_count; at > 0; at--) {
    if (peer->sent[at - 1].arena == arena) return true;
  }
  if (!grow((void **)&peer->sent, peer->sent_count, &peer->sent_capacity, sizeof *peer->sent)) return false;
  peer->sent[peer->sent_count++] = (mb_sent){mb__arena_ref(arena), false};
  return true;
}

static bool lend(mb_peer *peer, mb_data *data, uint64_t *id) {
  uint32_t slot = peer->free_lend;
  if (slot != NO_LEND) {
    peer->free_lend = peer->lends[slot].next_free;
  } else {
    if (!grow((void **)&peer->lends, peer->lend_count, &peer->lend_capacity, sizeof *peer->lends)) return false;
    slot = peer->lend_count++;
    peer->lends[slot].generation = 0;
  }
  mb_lend *entry = &peer->lends[slot];
  entry->data = mb__data_ref(data);
  entry->generation++;
  peer->lent_buffers++;
  peer->lent_bytes += data->size;
  *id = (uint64_t)entry->generation << 32 | slot;
  return true;
}

static mb_lend *find_lend(mb_peer *peer, uint64_t id) {
  uint32_t slot = (uint32_t)id;
  if (slot >= peer->lend_count) return NULL;
  mb_lend *entry = &peer->lends[slot];
  return entry->data != NULL && entry->generation == (uint32_t)(id >> 32) ? entry : NULL;
}

static mb_data *take_back(mb_peer *peer, mb_lend *entry) {
  mb_data *data = entry->data;
  entry->data = NULL;
  entry->next_free = peer->free_lend;
  peer->free_lend = (uint32_t)(entry - peer->lends);
  peer->lent_buffers--;
  peer->lent_bytes -= data->size;
  return data;
}

/* ---- encoding ------------------------------------------------------------------------------------------------ */

/* Where the data of a buffer is for the other side. Returns false when memory is out. */
static bool place(mb_peer *peer, const mb_buffer *buffer, mb_encoded *encoded) {
  mb_data *data = buffer->data;
  encoded->size = buffer->size;
  if (data == NULL || buffer->size == 0) {
    encoded->where = MB_WHERE_NONE;
    encoded->size = 0;
  } else if (data->done == peer->done) {
    encoded->where = MB_WHERE_BACK;
    encoded->id = data->lend_id;
  } else if (buffer->size <= peer->inline_limit) {
    encoded->where = MB_WHERE_INLINE;
  } else {
    encoded->where = MB_WHERE_LENT;
    encoded->arena = data->arena->id;
    encoded->offset = (uint64_t)(data->bytes - data->arena->base);
    return send_arena(peer, data->arena) && lend(peer, data, &encoded->id);
  }
  return true;
}

static void put(uint8_t *out, uint64_t *used, const void *bytes, uint64_t size) {
  uint64_t space = mb__round(size, 8);
  memcpy(out + *used, bytes, size);
  memset(out + *used + size, 0, space - size);
  *used += space;
}

/* 1 = encoded, 0 = no room, negative = failed. */
static int32_t encode_one(mb_peer *peer, const mb_buffer *buffer, uint8_t *out, uint64_t capacity, uint64_t *used) {
  mb_encoded encoded = {0};
  if (buffer == NULL) {
    encoded.where = MB_WHERE_HOLE;
    if (capacity - *used < sizeof encoded) return 0;
    put(out, used, &encoded, sizeof encoded);
    return 1;
  }
  size_t code_size = 0, message_size = 0;
  if (buffer->fault != NULL) {
    code_size = strlen(buffer->fault->code) + 1;
    message_size = strlen(buffer->fault->message) + 1;
    if (code_size > 1024) code_size = 1024;
    if (message_size > MAX_FAULT - 2048) message_size = MAX_FAULT - 2048;
    encoded.error_size = (uint32_t)(code_size + message_size);
  }
  encoded.kind = buffer->kind;
  encoded.born = (uint16_t)mb_buffer_born(buffer);
  encoded.meta_size = buffer->meta != NULL ? buffer->meta->size : 0;
  bool is_inline = buffer->data != NULL && buffer->data->done != peer->done && buffer->size <= peer->inline_limit;
  uint64_t space = sizeof encoded + encoded.meta_size + mb__round(encoded.error_size, 8);
  if (is_inline) space += mb__round(buffer->size, 8);
  if (space > capacity - *used) return 0;
  if (!place(peer, buffer, &encoded)) return -MB_NOMEM;
  put(out, used, &encoded, sizeof encoded);
  if (encoded.meta_size > 0) put(out, used, buffer->meta->bytes, encoded.meta_size);
  if (encoded.error_size > 0) {
    uint8_t *text = out + *used;
    memset(text, 0, mb__round(encoded.error_size, 8));
    memcpy(text, buffer->fault->code, code_size - 1);
    memcpy(text + code_size, buffer->fault->message, message_size - 1);
    *used += mb__round(encoded.error_size, 8);
  }
  if (encoded.where == MB_WHERE_INLINE) put(out, used, buffer->data->bytes, buffer->size);
  return 1;
}

int32_t mb_peer_encode(mb_peer *peer, const mb_list *list, uint32_t from, uint32_t count, uint8_t *out,
                       uint64_t capacity, uint64_t *used, mb_error *error) {
  if (from > list->count || count > list->count - from || *used > capacity || *used % 8 != 0) {
    return mb__fail(error, MB_RANGE, "encode: out of range");
  }
  pthread_mutex_lock(&peer->lock);
  int32_t status = 1;
  uint32_t at = from;
  while (at < from + count) {
    status = encode_one(peer, list->items[at], out, capacity, used);
    if (status <= 0) break;
    at++;
  }
  pthread_mutex_unlock(&peer->lock);
  if (status < 0) return mb__fail(error, -status, "out of memory");
  return (int32_t)(at - from);
}

uint32_t mb_peer_take_fds(mb_peer *peer, uint32_t *arenas, int32_t *fds, uint32_t capacity) {
  uint32_t count = 0;
  pthread_mutex_lock(&peer->lock);
  for (uint32_t at = peer->sent_count; at > 0 && count < capacity; at--) {
    mb_sent *sent = &peer->sent[at - 1];
    if (sent->announced) continue;
    sent->announced = true;
    arenas[count] = sent->arena->id;
    fds[count++] = sent->arena->fd;
  }
  pthread_mutex_unlock(&peer->lock);
  return count;
}

uint32_t mb_peer_take_gone(mb_peer *peer, uint32_t *arenas, uint32_t capacity) {
  uint32_t count = 0;
  pthread_mutex_lock(&peer->lock);
  for (uint32_t at = 0; at < peer->sent_count && count < capacity;) {
    mb_arena *arena = peer->sent[at].arena;
    /* References: ours alone means that nothing that lies in it can be sent again. */
    if (!peer->sent[at].announced || !(atomic_load(&arena->gone) || atomic_load(&arena->refs) == 1)) {
      at++;
      continue;
    }
    arenas[count++] = arena->id;
    peer->sent[at] = peer->sent[--peer->sent_count];
    mb__arena_unref(arena);
  }
  pthread_mutex_unlock(&peer->lock);
  return count;
}

/* ---- decoding ------------------------------------------------------------------------------------------------ */

typedef struct mb_parts {
  mb_encoded head;
  const uint8_t *meta, *error, *payload;
} mb_parts;

/* Splits one encoded buffer; every size is checked against what is there. */
static int32_t split(const uint8_t *bytes, uint64_t size, uint64_t *used, mb_parts *parts, mb_error *error) {
  if (*used > size || size - *used < sizeof parts->head) return mb__fail(error, MB_INVALID, "buffer header cut off");
  memcpy(&parts->head, bytes + *used, sizeof parts->head);
  uint64_t at = *used + sizeof parts->head;
  const mb_encoded *head = &parts->head;
  if (head->where > MB_WHERE_HOLE || head->born > 255 || head->kind > MB_KIND_STRING) {
    return mb__fail(error, MB_INVALID, "buffer header with unknown values");
  }
  if (head->meta_size > MB_META_MAX_SIZE || head->meta_size % 8 != 0 || head->meta_size > size - at) {
    return mb__fail(error, MB_INVALID, "meta of %u bytes does not fit", head->meta_size);
  }
  parts->meta = bytes + at;
  at += head->meta_size;
  if (head->error_size > MAX_FAULT || mb__round(head->error_size, 8) > size - at) {
    return mb__fail(error, MB_INVALID, "error text of %u bytes does not fit", head->error_size);
  }
  parts->error = bytes + at;
  at += mb__round(head->error_size, 8);
  parts->payload = bytes + at;
  if (head->where == MB_WHERE_INLINE) {
    if (head->size == 0 || head->size > size - at || mb__round(head->size, 8) > size - at) {
      return mb__fail(error, MB_INVALID, "inline data of %llu bytes does not fit", (unsigned long long)head->size);
    }
    at += mb__round(head->size, 8);
  }
  *used = at;
  return 0;
}

static mb_data *decode_lent(mb_peer *peer, const mb_encoded *head, mb_error *error) {
  pthread_mutex_lock(&peer->lock);
  mb_mapped *mapped = find_mapped(peer, head->arena);
  mb_arena *arena = mapped != NULL ? mb__arena_ref(mapped->arena) : NULL;
  pthread_mutex_unlock(&peer->lock);
  if (arena == NULL) {
    mb__fail(error, MB_INVALID, "arena %u is not known", head->arena);
    return NULL;
  }
  bool fits = head->size > 0 && head->offset % MB_ALIGN == 0 && head->offset < arena->size &&
              head->size <= arena->size - head->offset;
  mb_data *data = fits ? calloc(1, sizeof *data) : NULL;
  if (data == NULL) {
    mb__arena_unref(arena);
    if (fits) {
      mb__fail(error, MB_NOMEM, "out of memory");
    } else {
      mb__fail(error, MB_INVALID, "data at %llu of %llu bytes lies outside arena %u", (unsigned long long)head->offset,
               (unsigned long long)head->size, head->arena);
    }
    return NULL;
  }
  atomic_init(&data->refs, 1);
  atomic_init(&data->scribbled, false);
  data->bytes = arena->base + head->offset;
  data->size = head->size;
  data->arena = arena;
  data->lend_id = head->id;
  data->done = done_ref(peer->done);
  return data;
}

static mb_data *decode_back(mb_peer *peer, const mb_encoded *head, mb_error *error) {
  pthread_mutex_lock(&peer->lock);
  mb_lend *entry = find_lend(peer, head->id);
  mb_data *data = entry != NULL && head->size <= entry->data->size ? mb__data_ref(entry->data) : NULL;
  pthread_mutex_unlock(&peer->lock);
  if (data == NULL) mb__fail(error, MB_INVALID, "a buffer came back that was not lent");
  return data;
}

static int32_t decode_fault(mb_buffer *buffer, const mb_parts *parts, mb_error *error) {
  uint32_t size = parts->head.error_size;
  if (size == 0) return 0;
  char *text = malloc(size); /* copied out before it is looked at */
  if (text == NULL) return mb__fail(error, MB_NOMEM, "out of memory");
  memcpy(text, parts->error, size);
  char *end = memchr(text, 0, size);
  bool fits = text[size - 1] == '\0' && end != NULL && end != text + size - 1;
  int32_t status =
      fits ? mb_buffer_set_error(buffer, text, end + 1) : mb__fail(error, MB_INVALID, "damaged error text");
  if (status == 0) mb_buffer_set_born(buffer, parts->head.born);
  free(text);
  return status;
}

static mb_buffer *decode_one(mb_peer *peer, const mb_parts *parts, mb_error *error) {
  const mb_encoded *head = &parts->head;
  mb_data *data = NULL;
  mb_buffer *buffer;
  if (head->where == MB_WHERE_INLINE) {
    buffer = mb_buffer_from(peer->pool, parts->payload, head->size, error);
  } else {
    if (head->where == MB_WHERE_LENT) data = decode_lent(peer, head, error);
    if (head->where == MB_WHERE_BACK) data = decode_back(peer, head, error);
    if (head->where != MB_WHERE_NONE && data == NULL) return NULL;
    buffer = mb__buffer_over(data, data != NULL ? head->size : 0);
    if (buffer == NULL) mb__fail(error, MB_NOMEM, "out of memory");
  }
  if (buffer == NULL) return NULL;
  buffer->kind = head->kind;
  int32_t status = mb_buffer_set_meta(buffer, parts->meta, head->meta_size);
  if (status != 0) mb__fail(error, -status, "damaged meta");
  if (status == 0) status = decode_fault(buffer, parts, error);
  if (status != 0) {
    mb_buffer_unref(buffer);
    return NULL;
  }
  buffer->sealed = true;
  return buffer;
}

int32_t mb_peer_decode(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, uint32_t count,
                       mb_list *list, mb_error *error) {
  uint64_t at = *used;
  if (at > size || at % 8 != 0 || count > (size - at) / sizeof(mb_encoded)) {
    return mb__fail(error, MB_INVALID, "%u buffers do not fit into the message", count);
  }
  mb_list *decoded = mb_list_new(count);
  if (decoded == NULL) return mb__fail(error, MB_NOMEM, "out of memory");
  int32_t status = 0;
  for (uint32_t done = 0; done < count && status == 0; done++) {
    mb_parts parts;
    status = split(bytes, size, &at, &parts, error);
    if (status != 0) break;
    mb_buffer *buffer = NULL;
    if (parts.head.where != MB_WHERE_HOLE) {
      mb_error why = {0};
      buffer = decode_one(peer, &parts, &why);
      if (buffer == NULL) status = mb__fail(error, why.status, "%s", why.message);
    }
    if (status == 0) status = mb_list_push(decoded, buffer);
  }
  if (status == 0) status = mb_list_extend(list, decoded, 0, decoded->count);
  mb_list_free(decoded);
  if (status == 0) *used = at;
  return status;
}

/* ---- giving back ---------------------------------------------------------------------------------------------- */

int32_t mb_peer_release(mb_peer *peer, const uint64_t *ids, uint32_t count, mb_error *error) {
  for (uint32_t at = 0; at < count; at++) {
    pthread_mutex_lock(&peer->lock);
    mb_lend *entry = find_lend(peer, ids[at]);
    mb_data *data = entry != NULL ? take_back(peer, entry) : NULL;
    pthread_mutex_unlock(&peer->lock);
    if (data == NULL) return mb__fail(error, MB_INVALID, "a buffer was given back that was not lent");
    mb__data_unref(data);
  }
  return 0;
}

uint32_t mb_peer_take_done(mb_peer *peer, uint64_t *ids, uint32_t capacity) {
  mb_done *done = peer->done;
  pthread_mutex_lock(&done->lock);
  uint32_t count = done->count < capacity ? done->count : capacity;
  if (count > 0) memcpy(ids, done->ids, count * sizeof *ids);
  done->count -= count;
  if (done->count > 0) memmove(done->ids, done->ids + count, done->count * sizeof *ids);
  pthread_mutex_unlock(&done->lock);
  return count;
}

int32_t mb_peer_has_news(mb_peer *peer) {
  int32_t news = 0;
  pthread_mutex_lock(&peer->lock);
  for (uint32_t at = 0; at < peer->sent_count && !news; at++) {
    mb_sent *sent = &peer->sent[at];
    news = !sent->announced || atomic_load(&sent->arena->gone) || atomic_load(&sent->arena->refs) == 1;
  }
  pthread_mutex_unlock(&peer->lock);
  return news;
}

void mb__peer_keep_done(mb_peer *peer, const uint8_t *ids, uint32_t count) {
  mb_done *done = peer->done;
  pthread_mutex_lock(&done->lock);
  for (uint32_t at = 0; at < count; at++) {
    if (!grow((void **)&done->ids, done->count, &done->capacity, sizeof *done->ids)) break;
    memcpy(&done->ids[done->count++], ids + at * sizeof *done->ids, sizeof *done->ids);
  }
  pthread_mutex_unlock(&done->lock);
}

void mb__peer_undo(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint32_t count) {
  uint64_t at = 0;
  for (uint32_t done = 0; done < count; done++) {
    mb_parts parts;
    if (split(bytes, size, &at, &parts, NULL) != 0) return;
    if (parts.head.where == MB_WHERE_LENT) mb_peer_release(peer, &parts.head.id, 1, NULL);
  }
}

void mb_peer_lent(const mb_peer *peer, uint64_t *buffers, uint64_t *bytes) {
  mb_peer *open = (mb_peer *)peer;
  pthread_mutex_lock(&open->lock);
  *buffers = peer->lent_buffers;
  *bytes = peer->lent_bytes;
  pthread_mutex_unlock(&open->lock);
}
