/* What the sources of the core share among themselves; nothing outside csrc/src includes this. */
#ifndef MODELBOX_INTERNAL_H
#define MODELBOX_INTERNAL_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

#define MB_PAGE 4096u
#define MB_ALIGN 64u
#define MAX_PORTS 64u /* of one unit and direction */

static inline uint64_t mb__round(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

/* Fills `error` (may be NULL) and returns -status. */
int32_t mb__fail(mb_error *error, int32_t status, const char *format, ...) __attribute__((format(printf, 3, 4)));
void mb__log(int32_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- shared memory ---------------------------------------------------------------------------- */

typedef struct mb_done mb_done; /* what of a peer outlives it */

/* A mapped memfd: ours, or one that a peer lent us. Unmapped when the last reference goes. */
typedef struct mb_arena {
  atomic_uint refs;
  atomic_bool gone; /* its owner dropped it: peers should unmap it */
  uint32_t id;      /* unique in this process */
  int fd;
  uint8_t *base;
  uint64_t size;
  bool private_map; /* copy-on-write mapping of a peer's arena */
  mb_done *owner;   /* counts it; NULL: ours */
} mb_arena;

mb_arena *mb__arena_create(uint64_t size, mb_error *error);
mb_arena *mb__arena_map(int fd, bool private_map, uint64_t max_size, mb_error *error);
mb_arena *mb__arena_ref(mb_arena *arena);
void mb__arena_unref(mb_arena *arena);
/* A peer's arena of `size` bytes is unmapped. */
void mb__arena_gone(mb_done *owner, uint64_t size);

/* ---- accounts: who asked for memory ------------------------------------------------------------- */

typedef struct mb_account {
  atomic_uint refs;
  char name[64];
  atomic_uint_fast64_t live;
  atomic_uint_fast64_t peak;
  atomic_uint_fast64_t guard_faults;
} mb_account;

mb_account *mb__account_new(const char *name);
void mb__account_unref(mb_account *account);

/* ---- data blocks ------------------------------------------------------------------------------------ */

typedef struct mb_slab mb_slab;
typedef struct mb_region mb_region;
/* Bytes that one or more buffers share. Either from a pool, or lent by a peer. */
typedef struct mb_data {
  atomic_uint refs;
  uint8_t *bytes;
  uint64_t size; /* as asked for */
  mb_arena *arena;
  /* from a pool */
  mb_pool *pool;
  mb_region *region;
  mb_slab *slab;  /* NULL: a span of whole pages */
  uint32_t index; /* block in the slab, or first page of the span */
  uint32_t pages;
  mb_account *account;
  /* lent by a peer */
  mb_done *done;
  uint64_t lend_id;
  atomic_bool scribbled;
} mb_data;

mb_data *mb__pool_alloc(mb_pool *pool, uint64_t size, mb_account *account, mb_error *error);
void mb__pool_release(mb_data *data); /* last reference of a pool block is gone */
void mb__done_release(mb_data *data); /* last reference of a lent block is gone */

static inline mb_data *mb__data_ref(mb_data *data) {
  if (data != NULL) atomic_fetch_add_explicit(&data->refs, 1, memory_order_relaxed);
  return data;
}

static inline void mb__data_unref(mb_data *data) {
  if (data == NULL || atomic_fetch_sub_explicit(&data->refs, 1, memory_order_acq_rel) != 1) return;
  if (data->done != NULL) {
    mb__done_release(data);
  } else {
    mb__pool_release(data);
  }
}

/* ---- meta ---------------------------------------------------------------------------------------------- */

typedef struct mb_meta {
  atomic_uint refs;
  uint32_t size;
  uint32_t capacity;
  uint8_t *bytes; /* 8-aligned, follows this struct */
} mb_meta;

mb_meta *mb__meta_new(uint32_t capacity);
mb_meta *mb__meta_ref(mb_meta *meta);
void mb__meta_unref(mb_meta *meta);
/* The entry of `key`: its offset, or -1. */
int64_t mb__meta_find(const mb_meta *meta, const char *key, size_t key_size);
int32_t mb__meta_get(const mb_meta *meta, const char *key, const uint8_t **value, uint64_t *size);
/* Sets an entry in *meta, which is replaced by an own copy when it is shared or too small. */
int32_t mb__meta_set(mb_meta **meta, const char *key, int32_t type, const void *value, uint64_t size);
int32_t mb__meta_remove(mb_meta **meta, const char *key);
int32_t mb__meta_merge(mb_meta **to, const mb_meta *from);

/* ---- buffers ---------------------------------------------------------------------------------------------- */

typedef struct mb_fault {
  atomic_uint refs;
  char *message; /* follows code in the same block */
  char code[];
} mb_fault;

struct mb_buffer {
  atomic_uint refs;
  uint8_t kind;
  bool sealed;
  bool fatal;        /* an error that fails its session: a rule of the unit's kind was broken */
  atomic_uchar born; /* errors: depth of the level where it was born, plus 1; 0 = not known yet */
  mb_data *data;
  uint64_t size;
  mb_meta *meta;
  mb_fault *fault;
};

mb_buffer *mb__buffer_over(mb_data *data, uint64_t size); /* takes the data reference; NULL frees it */
mb_buffer *mb__buffer_alloc(mb_pool *pool, uint64_t size, mb_account *account, mb_error *error);

/* Whether a unit with this threshold (see mb_lists_kind) gets the buffer. */
static inline bool mb__is_seen(const mb_buffer *buffer, uint32_t visible) {
  if (buffer == NULL) return false;
  if (buffer->fault == NULL) return true;
  /* What fails the session reaches its end, whoever sees errors on the way. */
  return visible > 0 && !buffer->fatal && atomic_load_explicit(&buffer->born, memory_order_relaxed) >= visible;
}

/* An error that has just come out of a unit is born at this depth; older ones keep theirs. */
static inline void mb__born(mb_buffer *buffer, uint32_t depth) {
  if (buffer == NULL || buffer->fault == NULL) return;
  if (atomic_load_explicit(&buffer->born, memory_order_relaxed) == 0)
    atomic_store_explicit(&buffer->born, (unsigned char)(depth + 1), memory_order_relaxed);
}

/* Whether a buffer is what strict ports of these types (MB_TYPE_*) insist on; else `found` says what it is. Errors and
 * holes always are. */
bool mb__is_of_type(const mb_buffer *buffer, uint32_t types, char *found, size_t room);

/* What stands at a position over all ports: MB_SEEN, MB_HOLE or MB_ERROR, and on which port. */
int32_t mb__position(mb_buffer *const *const *inputs, uint32_t ports, uint32_t at, uint32_t visible, uint32_t *port);

/* ---- peers ------------------------------------------------------------------------------------------------ */

#define MB_ENCODED_SIZE 40u /* an encoded buffer without meta, error and inline data */

/* Puts ids back that take_done() gave and that were not sent. */
void mb__peer_keep_done(mb_peer *peer, const uint8_t *ids, uint32_t count);
/* Takes back what `count` encoded buffers at `bytes`, which we wrote, have lent. */
void mb__peer_undo(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint32_t count);

/* ---- nodes -------------------------------------------------------------------------------------------------- */

struct mb_node {
  const mb_unit *unit;
  char name[128];
  mb_pool *pool;
  mb_account *account;
  void *state;
  uint32_t flags;
  uint32_t batch_size;
  uint32_t visible;   /* see mb_lists_kind */
  uint32_t out_depth; /* of the level of its outputs */
  atomic_uint_fast64_t calls, buffers_in, buffers_out, errors, busy_ns;
};

extern const mb_host mb__host;

/* One process() call. */
struct mb_call {
  mb_node *node;
  mb_buffer *const *const *inputs; /* per port */
  uint32_t count;
  mb_list *const *outputs; /* per port */
  uint32_t output_count;
  void **stream_state;
  uint32_t *events; /* where send_event() counts; NULL: the unit has no events */
  bool is_event;
};

/* The text that set_error() left on this thread, or NULL; taking it clears it. */
const char *mb__take_error(void);
void mb__clear_error(void);

#endif
