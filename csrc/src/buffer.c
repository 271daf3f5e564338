/* Buffers: reference-counted data, meta and error; read-only once sealed. */
#include "internal.h"

static void fault_unref(mb_fault *fault) {
  if (fault != NULL && atomic_fetch_sub_explicit(&fault->refs, 1, memory_order_acq_rel) == 1) free(fault);
}

static mb_fault *fault_new(const char *code, const char *message) {
  size_t code_size = strlen(code) + 1;
  size_t message_size = strlen(message) + 1;
  mb_fault *fault = malloc(sizeof *fault + code_size + message_size);
  if (fault == NULL) return NULL;
  atomic_init(&fault->refs, 1);
  memcpy(fault->code, code, code_size);
  fault->message = fault->code + code_size;
  memcpy(fault->message, message, message_size);
  return fault;
}

mb_buffer *mb__buffer_over(mb_data *data, uint64_t size) {
  mb_buffer *buffer = calloc(1, sizeof *buffer);
  if (buffer == NULL) {
    mb__data_unref(data);
    return NULL;
  }
  atomic_init(&buffer->refs, 1);
  buffer->data = data;
  buffer->size = size;
  return buffer;
}

mb_buffer *mb__buffer_alloc(mb_pool *pool, uint64_t size, mb_account *account, mb_error *error) {
  mb_data *data = NULL;
  if (size > 0) {
    data = mb__pool_alloc(pool, size, account, error);
    if (data == NULL) return NULL;
  }
  mb_buffer *buffer = mb__buffer_over(data, size);
  if (buffer == NULL) mb__fail(error, MB_NOMEM, "out of memory");
  return buffer;
}

mb_buffer *mb_buffer_new(mb_pool *pool, uint64_t size, mb_error *error) {
  return mb__buffer_alloc(pool, size, NULL, error);
}

mb_buffer *mb_buffer_from(mb_pool *pool, const void *data, uint64_t size, mb_error *error) {
  mb_buffer *buffer = mb_buffer_new(pool, size, error);
  if (buffer != NULL && size > 0) memcpy(buffer->data->bytes, data, size);
  return buffer;
}

mb_buffer *mb_buffer_ref(mb_buffer *buffer) {
  if (buffer != NULL) atomic_fetch_add_explicit(&buffer->refs, 1, memory_order_relaxed);
  return buffer;
}

void mb_buffer_unref(mb_buffer *buffer) {
  if (buffer == NULL || atomic_fetch_sub_explicit(&buffer->refs, 1, memory_order_acq_rel) != 1) return;
  mb__data_unref(buffer->data);
  mb__meta_unref(buffer->meta);
  fault_unref(buffer->fault);
  free(buffer);
}

mb_buffer *mb_buffer_share(const mb_buffer *buffer) {
  mb_buffer *twin = mb__buffer_over(mb__data_ref(buffer->data), buffer->size);
  if (twin == NULL) return NULL;
  twin->kind = buffer->kind;
  twin->meta = mb__meta_ref(buffer->meta);
  twin->fault = buffer->fault;
  if (twin->fault != NULL) atomic_fetch_add_explicit(&twin->fault->refs, 1, memory_order_relaxed);
  atomic_init(&twin->born, atomic_load_explicit(&buffer->born, memory_order_relaxed));
  return twin;
}

const void *mb_buffer_data(const mb_buffer *buffer) { return buffer->data == NULL ? NULL : buffer->data->bytes; }

void *mb_buffer_writable(mb_buffer *buffer) {
  mb_data *data = buffer->data;
  if (buffer->sealed || data == NULL || data->done != NULL || atomic_load(&data->refs) != 1) return NULL;
  return data->bytes;
}

uint64_t mb_buffer_size(const mb_buffer *buffer) { return buffer->size; }

int32_t mb_buffer_truncate(mb_buffer *buffer, uint64_t size) {
  if (buffer->sealed) return -MB_PERMIT;
  if (size > buffer->size) return -MB_RANGE;
  buffer->size = size;
  return 0;
}

int32_t mb_buffer_kind(const mb_buffer *buffer) { return buffer->kind; }

int32_t mb_buffer_set_kind(mb_buffer *buffer, int32_t kind) {
  if (buffer->sealed) return -MB_PERMIT;
  if (kind < MB_KIND_RAW || kind > MB_KIND_STRING) return -MB_RANGE;
  buffer->kind = (uint8_t)kind;
  return 0;
}

void mb_buffer_seal(mb_buffer *buffer) { buffer->sealed = true; }

int32_t mb_buffer_is_sealed(const mb_buffer *buffer) { return buffer->sealed; }

int32_t mb_buffer_set_error(mb_buffer *buffer, const char *code, const char *message) {
  if (buffer->sealed) return -MB_PERMIT;
  mb_fault *fault = fault_new(code, message);
  if (fault == NULL) return -MB_NOMEM;
  fault_unref(buffer->fault);
  buffer->fault = fault;
  atomic_store_explicit(&buffer->born, 0, memory_order_relaxed);
  mb__data_unref(buffer->data);
  buffer->data = NULL;
  buffer->size = 0;
  return 0;
}

int32_t mb_buffer_error(const mb_buffer *buffer, const char **code, const char **message) {
  if (buffer->fault == NULL) return 0;
  if (code != NULL) *code = buffer->fault->code;
  if (message != NULL) *message = buffer->fault->message;
  return 1;
}

mb_buffer *mb_buffer_new_error(const char *code, const char *message) {
  mb_buffer *buffer = mb__buffer_over(NULL, 0);
  if (buffer == NULL) return NULL;
  if (mb_buffer_set_error(buffer, code, message) != 0) {
    mb_buffer_unref(buffer);
    return NULL;
  }
  buffer->sealed = true;
  return buffer;
}

const uint8_t *mb_buffer_meta(const mb_buffer *buffer, uint64_t *size) {
  *size = buffer->meta == NULL ? 0 : buffer->meta->size;
  return buffer->meta == NULL ? NULL : buffer->meta->bytes;
}

int32_t mb_buffer_set_meta(mb_buffer *buffer, const uint8_t *bytes, uint64_t size) {
  if (buffer->sealed) return -MB_PERMIT;
  mb_meta *meta = NULL;
  if (size > 0) {
    if (size > MB_META_MAX_SIZE) return -MB_RANGE;
    /* Copied first, checked then: the source may be memory that another process writes. */
    meta = mb__meta_new((uint32_t)size);
    if (meta == NULL) return -MB_NOMEM;
    memcpy(meta->bytes, bytes, size);
    meta->size = (uint32_t)size;
    if (mb_meta_check(meta->bytes, size) != 0) {
      mb__meta_unref(meta);
      return -MB_INVALID;
    }
  }
  mb__meta_unref(buffer->meta);
  buffer->meta = meta;
  return 0;
}

mb_buffer *mb_buffer_pack(mb_pool *pool, const void *data, uint64_t size, int32_t kind, const uint8_t *meta,
                          uint64_t meta_size, mb_error *error) {
  mb_buffer *buffer = mb_buffer_from(pool, data, size, error);
  if (buffer == NULL) return NULL;
  int32_t status = mb_buffer_set_kind(buffer, kind);
  if (status == 0) status = mb_buffer_set_meta(buffer, meta, meta_size);
  if (status != 0) {
    mb__fail(error, -status, "damaged kind or meta of a buffer");
    mb_buffer_unref(buffer);
    return NULL;
  }
  buffer->sealed = true;
  return buffer;
}

int32_t mb_buffer_meta_get(const mb_buffer *buffer, const char *key, const uint8_t **value, uint64_t *size) {
  return mb__meta_get(buffer->meta, key, value, size);
}

int32_t mb_buffer_meta_set(mb_buffer *buffer, const char *key, int32_t type, const uint8_t *value, uint64_t size) {
  return buffer->sealed ? -MB_PERMIT : mb__meta_set(&buffer->meta, key, type, value, size);
}

int32_t mb_buffer_meta_remove(mb_buffer *buffer, const char *key) {
  return buffer->sealed ? -MB_PERMIT : mb__meta_remove(&buffer->meta, key);
}

int32_t mb_buffer_meta_copy(mb_buffer *to, const mb_buffer *from) {
  return to->sealed ? -MB_PERMIT : mb__meta_merge(&to->meta, from->meta);
}

int32_t mb_buffer_is_remote(const mb_buffer *buffer) { return buffer->data != NULL && buffer->data->done != NULL; }

void *mb_buffer_scribble(mb_buffer *buffer) {
  mb_data *data = buffer->data;
  if (data == NULL || data->done == NULL || !data->arena->private_map || data->size < MB_SCRIBBLE_MIN) return NULL;
  atomic_store(&data->scribbled, true);
  return data->bytes;
}

uint32_t mb_buffer_born(const mb_buffer *buffer) { return atomic_load_explicit(&buffer->born, memory_order_relaxed); }

void mb_buffer_set_born(mb_buffer *buffer, uint32_t born) {
  atomic_store_explicit(&buffer->born, (unsigned char)born, memory_order_relaxed);
}
