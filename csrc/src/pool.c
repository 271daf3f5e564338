/*
 * The pool: buffers' memory in memfd arenas.
 *
 * A region is an arena of ours cut into pages. Spans of pages are found through free lists by size and joined
 * with their neighbours when they come back. Blocks up to SMALL_MAX bytes come from slabs (a span cut into
 * equal blocks, free ones in a bitmap); larger ones are spans of their own, so that no two of them share a page.
 *
 * A block is: guard word, padding to 64, payload, guard word. All bookkeeping lies outside the arena, because
 * other processes read it. One lock per pool; it is held for tens of nanoseconds.
 */
#define _GNU_SOURCE
#include <stdio.h>

#include "internal.h"

#define SLAB_PAGES 16u
#define SMALL_MAX (MB_SCRIBBLE_MIN - 1)
#define SLAB_BITS 512u              /* blocks of a slab, at most */
#define BINS 24u                    /* free spans by power of two of their pages */
#define GUARD 0x6d6f64656c626f78ull /* "modelbox" */
#define NO_PAGE UINT32_MAX

static const uint32_t class_sizes[] = {128,  192,  256,  320,   384,   448,   512,   640,  768,  896,
                                       1024, 1280, 1536, 1792,  2048,  2560,  3072,  3584, 4096, 5120,
                                       6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480};
#define CLASSES (sizeof class_sizes / sizeof class_sizes[0])

struct mb_slab {
  mb_slab *next, *previous; /* among the partly used slabs of a class */
  mb_region *region;
  uint32_t first_page;
  uint16_t class_index;
  uint16_t capacity;
  uint16_t free_count;
  bool listed;
  uint64_t free_bits[SLAB_BITS / 64];
};

struct mb_region {
  mb_region *next, *previous;
  mb_arena *arena;
  uint32_t pages;
  uint32_t free_pages;
  /* per page: at the first and last page of a free span its length; 0 = in use */
  uint32_t *span;
  uint32_t *bin_next, *bin_previous;
  uint32_t bins[BINS];
};

struct mb_pool {
  pthread_mutex_t lock;
  mb_pool_config config;
  atomic_uint refs;     /* the owner, and one per live block */
  atomic_uint releases; /* picks the blocks whose guards are checked */
  bool closed;
  mb_region *regions; /* oldest first: what a burst has added runs empty again */
  mb_region *last_region;
  mb_slab *partial[CLASSES];
  mb_slab *empty[CLASSES]; /* one empty slab per class is kept */
  mb_pool_stats stats;
  uint64_t empty_bytes; /* in regions without a block */
};

/* ---- spans ------------------------------------------------------------------------------------------ */

static uint32_t bin_of(uint32_t pages) {
  uint32_t bin = 31u - (uint32_t)__builtin_clz(pages);
  return bin < BINS ? bin : BINS - 1;
}

static void span_insert(mb_region *region, uint32_t first, uint32_t pages) {
  uint32_t bin = bin_of(pages);
  region->span[first] = pages;
  region->span[first + pages - 1] = pages;
  region->bin_previous[first] = NO_PAGE;
  region->bin_next[first] = region->bins[bin];
  if (region->bins[bin] != NO_PAGE) region->bin_previous[region->bins[bin]] = first;
  region->bins[bin] = first;
}

static void span_remove(mb_region *region, uint32_t first) {
  uint32_t pages = region->span[first];
  uint32_t next = region->bin_next[first], previous = region->bin_previous[first];
  if (next != NO_PAGE) region->bin_previous[next] = previous;
  if (previous != NO_PAGE) {
    region->bin_next[previous] = next;
  } else {
    region->bins[bin_of(pages)] = next;
  }
  region->span[first] = 0;
  region->span[first + pages - 1] = 0;
}

static uint32_t span_take(mb_region *region, uint32_t pages) {
  if (region->free_pages < pages) return NO_PAGE;
  for (uint32_t bin = bin_of(pages); bin < BINS; bin++) {
    for (uint32_t first = region->bins[bin]; first != NO_PAGE; first = region->bin_next[first]) {
      uint32_t there = region->span[first];
      if (there < pages) continue;
      span_remove(region, first);
      if (there > pages) span_insert(region, first + pages, there - pages);
      region->free_pages -= pages;
      return first;
    }
  }
  return NO_PAGE;
}

static void span_give(mb_region *region, uint32_t first, uint32_t pages) {
  region->free_pages += pages;
  uint32_t end = first + pages;
  if (end < region->pages && region->span[end] != 0) {
    uint32_t more = region->span[end];
    span_remove(region, end);
    pages += more;
  }
  if (first > 0 && region->span[first - 1] != 0) {
    uint32_t before = region->span[first - 1];
    first -= before;
    span_remove(region, first);
    pages += before;
  }
  span_insert(region, first, pages);
}

/* ---- regions ------------------------------------------------------------------------------------------ */

static mb_region *region_new(mb_pool *pool, uint64_t size, mb_error *error) {
  if (pool->config.max_bytes != 0 && pool->stats.arena_bytes + size > pool->config.max_bytes) {
    mb__fail(error, MB_NOMEM, "buffer memory is limited to %llu MiB (memory.max) and in use",
             (unsigned long long)(pool->config.max_bytes >> 20));
    return NULL;
  }
  uint32_t pages = (uint32_t)(size / MB_PAGE);
  mb_region *region = calloc(1, sizeof *region);
  uint32_t *words = calloc((size_t)pages * 3, sizeof *words);
  mb_arena *arena = region != NULL && words != NULL ? mb__arena_create(size, error) : NULL;
  if (arena == NULL) {
    if (region == NULL || words == NULL) mb__fail(error, MB_NOMEM, "out of memory");
    free(words);
    free(region);
    return NULL;
  }
  region->arena = arena;
  region->pages = region->free_pages = pages;
  region->span = words;
  region->bin_next = words + pages;
  region->bin_previous = words + 2 * (size_t)pages;
  for (uint32_t bin = 0; bin < BINS; bin++) region->bins[bin] = NO_PAGE;
  span_insert(region, 0, pages);
  region->previous = pool->last_region;
  if (region->previous != NULL) {
    region->previous->next = region;
  } else {
    pool->regions = region;
  }
  pool->last_region = region;
  pool->stats.arenas++;
  pool->stats.arena_bytes += size;
  pool->empty_bytes += size;
  return region;
}

static void region_free(mb_pool *pool, mb_region *region) {
  if (region->previous != NULL) {
    region->previous->next = region->next;
  } else {
    pool->regions = region->next;
  }
  if (region->next != NULL) {
    region->next->previous = region->previous;
  } else {
    pool->last_region = region->previous;
  }
  pool->stats.arenas--;
  pool->stats.arena_bytes -= region->arena->size;
  pool->empty_bytes -= region->arena->size;
  atomic_store(&region->arena->gone, true);
  mb__arena_unref(region->arena);
  free(region->span);
  free(region);
}

static uint32_t pages_take(mb_pool *pool, uint32_t pages, mb_region **where, mb_error *error) {
  for (mb_region *region = pool->regions; region != NULL; region = region->next) {
    bool was_empty = region->free_pages == region->pages;
    uint32_t first = span_take(region, pages);
    if (first != NO_PAGE) {
      if (was_empty) pool->empty_bytes -= region->arena->size;
      *where = region;
      return first;
    }
  }
  uint64_t size = mb__round((uint64_t)pages * MB_PAGE, 1 << 20);
  mb_region *region = region_new(pool, size > pool->config.arena_size ? size : pool->config.arena_size, error);
  if (region == NULL) return NO_PAGE;
  pool->empty_bytes -= region->arena->size;
  *where = region;
  return span_take(region, pages);
}

static void pages_give(mb_pool *pool, mb_region *region, uint32_t first, uint32_t pages) {
  span_give(region, first, pages);
  if (region->free_pages != region->pages) return;
  pool->empty_bytes += region->arena->size;
  if (pool->closed || pool->empty_bytes > pool->config.keep_bytes) region_free(pool, region);
}

/* ---- slabs ---------------------------------------------------------------------------------------------- */

static uint32_t class_of(uint64_t block) {
  uint32_t low = 0, high = CLASSES - 1;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (class_sizes[middle] < block) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static void slab_list(mb_pool *pool, mb_slab *slab) {
  slab->previous = NULL;
  slab->next = pool->partial[slab->class_index];
  if (slab->next != NULL) slab->next->previous = slab;
  pool->partial[slab->class_index] = slab;
  slab->listed = true;
}

static void slab_unlist(mb_pool *pool, mb_slab *slab) {
  if (slab->previous != NULL) {
    slab->previous->next = slab->next;
  } else {
    pool->partial[slab->class_index] = slab->next;
  }
  if (slab->next != NULL) slab->next->previous = slab->previous;
  slab->listed = false;
}

static mb_slab *slab_new(mb_pool *pool, uint32_t class_index, mb_error *error) {
  mb_slab *slab = pool->empty[class_index];
  if (slab != NULL) {
    pool->empty[class_index] = NULL;
    slab_list(pool, slab);
    return slab;
  }
  slab = calloc(1, sizeof *slab);
  if (slab == NULL) {
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  slab->first_page = pages_take(pool, SLAB_PAGES, &slab->region, error);
  if (slab->first_page == NO_PAGE) {
    free(slab);
    return NULL;
  }
  slab->class_index = (uint16_t)class_index;
  slab->capacity = (uint16_t)(SLAB_PAGES * MB_PAGE / class_sizes[class_index]);
  slab->free_count = slab->capacity;
  for (uint32_t block = 0; block < slab->capacity; block++) slab->free_bits[block / 64] |= 1ull << (block % 64);
  slab_list(pool, slab);
  return slab;
}

static uint32_t slab_take(mb_pool *pool, mb_slab *slab) {
  uint32_t word = 0;
  while (slab->free_bits[word] == 0) word++;
  uint32_t bit = (uint32_t)__builtin_ctzll(slab->free_bits[word]);
  slab->free_bits[word] &= slab->free_bits[word] - 1;
  if (--slab->free_count == 0) slab_unlist(pool, slab);
  return word * 64 + bit;
}

static void slab_free(mb_pool *pool, mb_slab *slab) {
  pages_give(pool, slab->region, slab->first_page, SLAB_PAGES);
  free(slab);
}

static void slab_give(mb_pool *pool, mb_slab *slab, uint32_t block) {
  slab->free_bits[block / 64] |= 1ull << (block % 64);
  slab->free_count++;
  if (!slab->listed) slab_list(pool, slab);
  if (slab->free_count < slab->capacity) return;
  slab_unlist(pool, slab);
  if (pool->empty[slab->class_index] == NULL && !pool->closed) {
    pool->empty[slab->class_index] = slab;
  } else {
    slab_free(pool, slab);
  }
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

static uint8_t *slab_block(const mb_slab *slab, uint32_t index) {
  return slab->region->arena->base + (uint64_t)slab->first_page * MB_PAGE +
         (uint64_t)index * class_sizes[slab->class_index];
}

static uint64_t guard_of(const mb_data *data) { return GUARD ^ (uint64_t)(uintptr_t)data->bytes; }

static void guards_write(mb_data *data) {
  uint64_t guard = guard_of(data);
  memcpy(data->bytes - sizeof guard, &guard, sizeof guard);
  memcpy(data->bytes + data->size, &guard, sizeof guard);
}

static bool guards_hold(const mb_data *data) {
  uint64_t guard = guard_of(data), before, after;
  memcpy(&before, data->bytes - sizeof guard, sizeof guard);
  memcpy(&after, data->bytes + data->size, sizeof guard);
  return before == guard && after == guard;
}

static bool guards_check(mb_data *data) {
  if (guards_hold(data)) return true;
  const char *who = data->account != NULL ? data->account->name : "unknown";
  if (data->account != NULL) atomic_fetch_add(&data->account->guard_faults, 1);
  mb__log(MB_LOG_ERROR, "node '%s' wrote outside a buffer of %llu bytes that it had allocated; the unit is faulty", who,
          (unsigned long long)data->size);
  return false;
}

static void account_add(mb_account *account, uint64_t size) {
  uint64_t live = atomic_fetch_add_explicit(&account->live, size, memory_order_relaxed) + size;
  uint64_t peak = atomic_load_explicit(&account->peak, memory_order_relaxed);
  while (live > peak && !atomic_compare_exchange_weak(&account->peak, &peak, live)) {
  }
}

mb_account *mb__account_new(const char *name) {
  mb_account *account = calloc(1, sizeof *account);
  if (account == NULL) return NULL;
  atomic_init(&account->refs, 1);
  snprintf(account->name, sizeof account->name, "%s", name);
  return account;
}

void mb__account_unref(mb_account *account) {
  if (account != NULL && atomic_fetch_sub(&account->refs, 1) == 1) free(account);
}

static bool block_take(mb_pool *pool, mb_data *data, uint64_t block, mb_error *error) {
  if (data->size <= SMALL_MAX) {
    uint32_t class_index = class_of(block);
    mb_slab *slab = pool->partial[class_index];
    if (slab == NULL) slab = slab_new(pool, class_index, error);
    if (slab == NULL) return false;
    data->slab = slab;
    data->region = slab->region;
    data->index = slab_take(pool, slab);
    data->bytes = slab_block(slab, data->index) + MB_ALIGN;
    pool->stats.block_bytes += class_sizes[class_index];
  } else {
    data->pages = (uint32_t)(mb__round(block, MB_PAGE) / MB_PAGE);
    data->index = pages_take(pool, data->pages, &data->region, error);
    if (data->index == NO_PAGE) return false;
    data->bytes = data->region->arena->base + (uint64_t)data->index * MB_PAGE + MB_ALIGN;
    pool->stats.block_bytes += (uint64_t)data->pages * MB_PAGE;
  }
  return true;
}

mb_data *mb__pool_alloc(mb_pool *pool, uint64_t size, mb_account *account, mb_error *error) {
  uint64_t limit = pool->config.max_buffer != 0 ? pool->config.max_buffer : 1ull << 40;
  if (size > limit) {
    pthread_mutex_lock(&pool->lock);
    pool->stats.failures++;
    pthread_mutex_unlock(&pool->lock);
    mb__fail(error, MB_NOMEM, "a buffer of %llu bytes is beyond the limit of %llu bytes", (unsigned long long)size,
             (unsigned long long)limit);
    return NULL;
  }
  mb_data *data = calloc(1, sizeof *data);
  if (data == NULL) {
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  atomic_init(&data->refs, 1);
  data->size = size;
  data->pool = pool;
  pthread_mutex_lock(&pool->lock);
  bool taken = block_take(pool, data, MB_ALIGN + size + sizeof(uint64_t), error);
  mb_pool_stats *stats = &pool->stats;
  if (taken) {
    stats->allocations++;
    stats->live_buffers++;
    stats->used_bytes += size;
    if (stats->block_bytes > stats->peak_bytes) stats->peak_bytes = stats->block_bytes;
  } else {
    stats->failures++;
  }
  pthread_mutex_unlock(&pool->lock);
  if (!taken) {
    free(data);
    return NULL;
  }
  atomic_fetch_add(&pool->refs, 1);
  data->arena = data->region->arena;
  guards_write(data);
  if (account != NULL) {
    atomic_fetch_add(&account->refs, 1);
    data->account = account;
    account_add(account, size);
  }
  return data;
}

static void pool_unref(mb_pool *pool) {
  if (atomic_fetch_sub(&pool->refs, 1) != 1) return;
  for (uint32_t class_index = 0; class_index < CLASSES; class_index++) {
    if (pool->empty[class_index] != NULL) slab_free(pool, pool->empty[class_index]);
  }
  while (pool->regions != NULL) region_free(pool, pool->regions);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

void mb__pool_release(mb_data *data) {
  mb_pool *pool = data->pool;
  bool check = pool->config.guard_all || atomic_fetch_add_explicit(&pool->releases, 1, memory_order_relaxed) % 64 == 0;
  bool intact = !check || guards_check(data);
  if (data->account != NULL) {
    atomic_fetch_sub_explicit(&data->account->live, data->size, memory_order_relaxed);
    mb__account_unref(data->account);
  }
  pthread_mutex_lock(&pool->lock);
  pool->stats.frees++;
  if (!intact) pool->stats.guard_faults++;
  pool->stats.live_buffers--;
  pool->stats.used_bytes -= data->size;
  if (data->slab != NULL) {
    pool->stats.block_bytes -= class_sizes[data->slab->class_index];
    slab_give(pool, data->slab, data->index);
  } else {
    pool->stats.block_bytes -= (uint64_t)data->pages * MB_PAGE;
    pages_give(pool, data->region, data->index, data->pages);
  }
  pthread_mutex_unlock(&pool->lock);
  free(data);
  pool_unref(pool);
}

/* ---- the pool -------------------------------------------------------------------------------------------- */

mb_pool *mb_pool_new(const mb_pool_config *config, mb_error *error) {
  mb_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) {
    mb__fail(error, MB_NOMEM, "out of memory");
    return NULL;
  }
  pool->config = *config;
  if (pool->config.arena_size == 0) pool->config.arena_size = 64ull << 20;
  if (pool->config.arena_size % (1 << 20) != 0) {
    mb__fail(error, MB_INVALID, "the arena size must be a multiple of 1 MiB");
    free(pool);
    return NULL;
  }
  pthread_mutex_init(&pool->lock, NULL);
  atomic_init(&pool->refs, 1);
  return pool;
}

void mb_pool_free(mb_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  pool->closed = true; /* from now on memory goes as soon as it is free */
  pthread_mutex_unlock(&pool->lock);
  pool_unref(pool);
}

void mb_pool_get_stats(mb_pool *pool, mb_pool_stats *stats) {
  pthread_mutex_lock(&pool->lock);
  *stats = pool->stats;
  for (uint32_t class_index = 0; class_index < CLASSES; class_index++) {
    for (mb_slab *slab = pool->partial[class_index]; slab != NULL; slab = slab->next) {
      stats->fragmented_bytes += (uint64_t)slab->free_count * class_sizes[class_index];
    }
  }
  pthread_mutex_unlock(&pool->lock);
}

uint64_t mb_pool_trim(mb_pool *pool, uint64_t keep_bytes) {
  uint64_t before;
  pthread_mutex_lock(&pool->lock);
  before = pool->stats.arena_bytes;
  for (uint32_t class_index = 0; class_index < CLASSES; class_index++) {
    if (pool->empty[class_index] != NULL) {
      mb_slab *slab = pool->empty[class_index];
      pool->empty[class_index] = NULL;
      slab_free(pool, slab);
    }
  }
  mb_region *next;
  for (mb_region *region = pool->regions; region != NULL; region = next) {
    next = region->next;
    bool is_empty = region->free_pages == region->pages;
    if (is_empty && pool->empty_bytes > keep_bytes) region_free(pool, region);
  }
  uint64_t after = pool->stats.arena_bytes;
  pthread_mutex_unlock(&pool->lock);
  return before - after;
}
