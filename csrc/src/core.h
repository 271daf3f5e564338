/*
 * The C core as its Python side (modelbox/_core) sees it. Not for plugins: they include
 * <modelbox/plugin.h> alone. modelbox/_core/build.py feeds this file and plugin.h to cffi, so that no
 * declaration is written twice; keep to plain declarations (no function-like macros) outside the guards.
 *
 * Layers, each knowing only those above it:
 *   meta.c     flat, typed key/value blocks             pool.c     memfd arenas, slabs, guards, statistics
 *   buffer.c   reference-counted data + meta + error    list.c     arrays of buffers: slice, join, split
 *   plugin.c   dlopen, ABI check, host table            segment.c  run of a fused chain of native units
 *   peer.c     buffers lent to and taken from another process: encode, decode, release
 *   message.c  calls and results around them
 *
 * Errors: functions that can fail take `mb_error *error`, fill it with one sentence, and return a
 * negative mb_status (or NULL).
 */
#ifndef MODELBOX_CORE_H
#define MODELBOX_CORE_H

#ifndef MB_CFFI
#include <modelbox/plugin.h>
#endif

#define MB_ERROR_SIZE 512

typedef struct mb_error {
  int32_t status; /* mb_status, 0 = none */
  char message[MB_ERROR_SIZE];
} mb_error;

/* ---- meta ------------------------------------------------------------------------------------------
 * A flat block of entries, each padded to 8 bytes:
 *
 *   u8 type | u8 key_size | u16 0 | u32 value_size | key | 0.. | value | 0..
 *
 * The same bytes are the in-memory form and the wire form. A STRING value is followed by at least one
 * zero byte of padding. STRINGS holds (u32 size, bytes) per item, unpadded. OBJECT is opaque here;
 * modelbox/meta.py gives it meaning. Keys are unique within a block.
 */
enum mb_meta_type {
  MB_META_INT = 1,     /* i64 */
  MB_META_DOUBLE = 2,  /* f64 */
  MB_META_BOOL = 3,    /* u64, 0 or 1 */
  MB_META_STRING = 4,  /* UTF-8 */
  MB_META_INTS = 5,    /* i64[] */
  MB_META_DOUBLES = 6, /* f64[] */
  MB_META_BOOLS = 7,   /* u64[], each 0 or 1 */
  MB_META_STRINGS = 8, /* (u32 size, bytes)[] */
  MB_META_DTYPE = 9,   /* i64, an mb_dtype */
  MB_META_OBJECT = 10  /* bytes */
};

#define MB_META_MAX_SIZE 1048576 /* bytes of one block */

/* 0 when `bytes` is a well-formed block (bounds, padding, types, sizes, unique keys), else -MB_INVALID. */
int32_t mb_meta_check(const uint8_t *bytes, uint64_t size);

/* ---- pool: host memory in memfd arenas -------------------------------------------------------------- */

typedef struct mb_pool mb_pool;

typedef struct mb_pool_config {
  uint64_t arena_size; /* bytes of one arena, a multiple of 1 MiB; default 64 MiB */
  uint64_t max_bytes;  /* bound on all arenas together; 0 = no bound */
  uint64_t max_buffer; /* bound on one buffer; 0 = no bound */
  uint64_t keep_bytes; /* how much empty arena memory is kept for reuse */
  int32_t guard_all;   /* 1: check the guards of every buffer on release; 0: one release in 64 */
} mb_pool_config;

typedef struct mb_pool_stats {
  uint64_t arenas;      /* mapped arenas */
  uint64_t arena_bytes; /* their size */
  uint64_t used_bytes;  /* asked for by live buffers */
  uint64_t block_bytes; /* taken for them, rounding included */
  uint64_t peak_bytes;  /* highest block_bytes so far */
  uint64_t live_buffers;
  uint64_t allocations; /* since the start */
  uint64_t frees;
  uint64_t failures;         /* refused: limits or no memory */
  uint64_t guard_faults;     /* buffers whose guards were damaged */
  uint64_t fragmented_bytes; /* free bytes inside slabs that are partly in use */
} mb_pool_stats;

mb_pool *mb_pool_new(const mb_pool_config *config, mb_error *error);
/* Drops the owner's reference; arenas go when their last buffer goes. */
void mb_pool_free(mb_pool *pool);
void mb_pool_get_stats(mb_pool *pool, mb_pool_stats *stats);
/* Gives empty arenas beyond keep_bytes back to the kernel; returns the bytes given back. */
uint64_t mb_pool_trim(mb_pool *pool, uint64_t keep_bytes);

/* ---- buffers ---------------------------------------------------------------------------------------- */

/* A new unsealed buffer of `size` bytes charged to `owner` (may be NULL), or NULL with `error` set. */
mb_buffer *mb_buffer_new(mb_pool *pool, uint64_t size, mb_error *error);
/* The same with `size` bytes copied from `data`. */
mb_buffer *mb_buffer_from(mb_pool *pool, const void *data, uint64_t size, mb_error *error);
/* The same with kind and meta (checked), sealed: all of a received payload in one call. */
mb_buffer *mb_buffer_pack(mb_pool *pool, const void *data, uint64_t size, int32_t kind, const uint8_t *meta,
                          uint64_t meta_size, mb_error *error);
mb_buffer *mb_buffer_ref(mb_buffer *buffer);
void mb_buffer_unref(mb_buffer *buffer);
/* Same data, own meta (copied on the first write), unsealed. */
mb_buffer *mb_buffer_share(const mb_buffer *buffer);
const void *mb_buffer_data(const mb_buffer *buffer);
/* Writable bytes of an unsealed buffer that alone owns its data, else NULL. */
void *mb_buffer_writable(mb_buffer *buffer);
uint64_t mb_buffer_size(const mb_buffer *buffer);
int32_t mb_buffer_truncate(mb_buffer *buffer, uint64_t size);
int32_t mb_buffer_kind(const mb_buffer *buffer);
int32_t mb_buffer_set_kind(mb_buffer *buffer, int32_t kind);
/* Sealed: sent; read-only for everybody from here on. */
void mb_buffer_seal(mb_buffer *buffer);
int32_t mb_buffer_is_sealed(const mb_buffer *buffer);
/* Drops the data and carries (code, message) instead. Unsealed buffers only. */
int32_t mb_buffer_set_error(mb_buffer *buffer, const char *code, const char *message);
int32_t mb_buffer_error(const mb_buffer *buffer, const char **code, const char **message);
/* A buffer without data that carries an error; sealed. NULL when memory is out. */
mb_buffer *mb_buffer_new_error(const char *code, const char *message);
/* The whole meta block; borrowed. */
const uint8_t *mb_buffer_meta(const mb_buffer *buffer, uint64_t *size);
/* Replaces the whole meta block by a checked copy. Unsealed buffers only. */
int32_t mb_buffer_set_meta(mb_buffer *buffer, const uint8_t *bytes, uint64_t size);
/* One entry; `value` is borrowed. Returns the mb_meta_type, or -MB_NOTFOUND. */
int32_t mb_buffer_meta_get(const mb_buffer *buffer, const char *key, const uint8_t **value, uint64_t *size);
/* Sets one entry of a given mb_meta_type from its value bytes (checked). */
int32_t mb_buffer_meta_set(mb_buffer *buffer, const char *key, int32_t type, const uint8_t *value, uint64_t size);
int32_t mb_buffer_meta_remove(mb_buffer *buffer, const char *key);
/* Copies from `from` every key that `to` lacks. */
int32_t mb_buffer_meta_copy(mb_buffer *to, const mb_buffer *from);
/* 1 when the data lies in another process's arena. */
int32_t mb_buffer_is_remote(const mb_buffer *buffer);
/* Errors: the depth of the level where it was born, plus 1; 0 = it has not left its unit yet. */
uint32_t mb_buffer_born(const mb_buffer *buffer);
void mb_buffer_set_born(mb_buffer *buffer, uint32_t born);
/* For a remote buffer of a private mapping (see mb_peer_new) of at least MB_SCRIBBLE_MIN bytes: lets the
 * holder write into its private copy-on-write view; the pages are dropped when the buffer is released.
 * Returns the bytes, or NULL where this does not apply. */
void *mb_buffer_scribble(mb_buffer *buffer);
#define MB_SCRIBBLE_MIN 16384

/* ---- lists of buffers: what a chunk carries ----------------------------------------------------------
 * A list owns one reference to each of its buffers. A NULL entry is a placeholder: an index of the stream
 * that has no buffer on this path. */

typedef struct mb_list {
  uint32_t count;
  uint32_t capacity;
  mb_buffer **items;
  uint64_t bytes; /* data of all buffers */
} mb_list;

mb_list *mb_list_new(uint32_t capacity);
void mb_list_free(mb_list *list);
/* Appends; the reference is consumed. */
int32_t mb_list_push(mb_list *list, mb_buffer *buffer);
/* Appends references to items [from, from + count) of `other`. */
int32_t mb_list_extend(mb_list *list, const mb_list *other, uint32_t from, uint32_t count);
/* A new list that takes the first `count` items out of `list` (all of them when there are fewer). */
mb_list *mb_list_take(mb_list *list, uint32_t count);
/* How many items in [from, from + count) carry an error. */
uint32_t mb_list_errors(const mb_list *list, uint32_t from, uint32_t count);
/* The first item from `from` on whose error fails its session, or -1. */
int64_t mb_list_fatal(const mb_list *list, uint32_t from, uint32_t count);
/* Errors from `from` on that have just come out of a unit are born at this depth; others keep theirs. */
void mb_list_born(mb_list *list, uint32_t from, uint32_t depth);

/* ---- positions: which values a unit gets -------------------------------------------------------------
 * `inputs` is one list per port, all of one length. `visible` 0: the unit sees no errors; d + 1: it sees those
 * that were born at depth d or deeper. A hole on any port makes the position a hole; else an error that is not
 * seen, on any port, makes it an error. The rules are those of docs/dataflow.md. */

enum mb_position { MB_SEEN = 0, MB_HOLE = 1, MB_ERROR = 2 };

/* What stands at a position; *port (may be NULL) is the first port that makes it so. */
int32_t mb_lists_kind(mb_list *const *inputs, uint32_t ports, uint32_t at, uint32_t visible, uint32_t *port);
/* How many of the positions [from, from + count) are not MB_SEEN. */
uint32_t mb_lists_unseen(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t count, uint32_t visible);
/* How many positions from `from` on are alike in being MB_SEEN or not; 0 at the end. */
uint32_t mb_lists_run(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t visible);
/* Appends the values of the MB_SEEN positions of each port to kept[port]. */
int32_t mb_lists_split(mb_list *const *inputs, uint32_t ports, uint32_t visible, mb_list *const *kept);
/* Appends to `out`, for positions [from, from + count): the next of `results` (from *next on) where MB_SEEN, else the
 * hole or error. With `results` NULL seen positions give holes. */
int32_t mb_lists_merge(mb_list *const *inputs, uint32_t ports, uint32_t from, uint32_t count, uint32_t visible,
                       const mb_list *results, uint32_t *next, mb_list *out);
/* Where branches meet: appends, for each position, the one value that the lanes have there, or a hole. Two values
 * at one position give -MB_EXIST; *at tells where. */
int32_t mb_lists_choose(mb_list *const *lanes, uint32_t count, mb_list *out, uint32_t *at);

/* ---- plugins ---------------------------------------------------------------------------------------- */

typedef struct mb_library mb_library;

/* dlopen (RTLD_NOW | RTLD_LOCAL), looks up the entry, checks ABI and descriptions; NULL with `error` set.
 * Libraries stay loaded for the life of the process. */
mb_library *mb_library_open(const char *path, mb_error *error);
const mb_plugin *mb_library_plugin(const mb_library *library);

/* One unit opened for one node. `keys` and `values` are the options as text. */
typedef struct mb_node mb_node;
mb_node *mb_node_open(mb_pool *pool, const mb_unit *unit, const char *name, const char *const *keys,
                      const char *const *values, uint32_t option_count, uint32_t batch_size, mb_error *error);
void mb_node_close(mb_node *node);
/* Where the node stands: the depths of the levels of its inputs and outputs, and whether it sees errors
 * (default: as the unit says, depth 0). Before the first run. */
void mb_node_set_level(mb_node *node, int32_t sees_errors, uint32_t depth, uint32_t out_depth);

typedef struct mb_node_stats {
  uint64_t calls;
  uint64_t buffers_in;
  uint64_t buffers_out;
  uint64_t errors;     /* error buffers that this node made */
  uint64_t busy_ns;    /* time inside process() */
  uint64_t live_bytes; /* bytes of live buffers that this node made */
  uint64_t peak_bytes;
  uint64_t guard_faults; /* buffers of this node that were written past their end */
} mb_node_stats;
void mb_node_get_stats(const mb_node *node, mb_node_stats *stats);

/* ---- segments: neighbouring native nodes that run in one call ------------------------------------------ */

typedef struct mb_segment mb_segment;

/* A chain of NORMAL nodes with one input and one output each, or one node with any ports. Nodes are borrowed. */
mb_segment *mb_segment_new(mb_node *const *nodes, uint32_t count, mb_error *error);
void mb_segment_free(mb_segment *segment);
/*
 * Runs the chain over `inputs` (one list per input port of the first node, all of equal count; left as
 * they are) and appends to `outputs` (one list per output port of the last node). Error buffers and
 * placeholders pass by and keep their position, unless a unit sees errors. A failing call turns into error
 * buffers of the same count, a miscounting one into fatal errors. Outputs are sealed. [any-thread, several at once]
 * Returns 0, or a negative status when the core itself failed (out of memory), with `error` set.
 */
int32_t mb_segment_run(mb_segment *segment, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                       uint32_t output_count, mb_error *error);

/* A condition or loop node: process() once for each value, which must give one value on one port; the other ports
 * get a hole. Errors that are not seen go to port `error_port`. [any-thread, several at once] */
int32_t mb_node_choose(mb_node *node, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                       uint32_t output_count, uint32_t error_port, mb_error *error);

/* A context of a node: one stream through an MB_UNIT_STREAM node, or one sub-stream of an expand or collapse node.
 * Calls of one context must not overlap. With `framed`, stream_begin and stream_end are called. */
typedef struct mb_stream mb_stream;
mb_stream *mb_stream_begin(mb_node *node, int32_t framed, mb_list *const *outputs, uint32_t output_count,
                           mb_error *error);
/* A process() call for the event that waits longest, without inputs. */
int32_t mb_stream_event(mb_stream *stream, mb_list *const *outputs, uint32_t output_count, mb_error *error);
/* How many events wait. */
uint32_t mb_stream_events(const mb_stream *stream);
/* One process() call; any number of outputs. Error inputs are copied to every output in their place. Returns 1 when
 * the call failed: its outputs are then errors. */
int32_t mb_stream_run(mb_stream *stream, mb_list *const *inputs, uint32_t input_count, mb_list *const *outputs,
                      uint32_t output_count, mb_error *error);
/* Calls stream_end and frees. Its pushes go to `outputs`, which may be NULL when nobody wants them; those of an expand,
 * of a stream_end that fails, and behind a stream_begin that failed do not count. */
void mb_stream_end(mb_stream *stream, mb_list *const *outputs, uint32_t output_count);

/* ---- strict ports ----------------------------------------------------------------------------------------
 * What the types of the tree insist on; a type has the bits of its ancestors too. */
enum mb_strict_type {
  MB_TYPE_STRING = 1, /* text */
  MB_TYPE_TENSOR = 2, /* meta `shape` and `type` that make the size */
  MB_TYPE_IMAGE = 4   /* meta `width`, `height` and `pix_fmt` that make the size */
};

/* Index of the first value that is not of these types, `found` then says what it is; -1 when all are. Errors and holes
 * are of every type. */
int64_t mb_list_misfit(const mb_list *list, uint32_t types, char *found, uint32_t room);
/* Between node `at` of a segment and the next one: values that are not of `types` become errors that fail their
 * session; `expected` ("node 'x' port 'y': expected image") begins the message and is copied. */
int32_t mb_segment_set_strict(mb_segment *segment, uint32_t at, uint32_t types, const char *expected, mb_error *error);

/* ---- peers: buffers across a process boundary --------------------------------------------------------------
 * Both ends of a connection hold an mb_peer. A sender *lends* buffers that lie in its arenas (the receiver
 * gets an id and reads the shared memory); small payloads travel inline. The receiver gives lent ids back in
 * bulk. Nothing that arrives is believed: ids, arena numbers, offsets, sizes, meta are checked, and meta is
 * copied out before it is checked. Arenas must be memfds sealed against shrinking.
 *
 * Encoded buffer, little endian, parts padded to 8:
 *   u8 where | u8 kind | u16 born | u32 meta_size | u32 error_size | u32 arena | u64 offset | u64 size | u64 id
 *   meta | error (code NUL message NUL) | payload when inline
 */
enum mb_where {
  MB_WHERE_NONE = 0,   /* no data */
  MB_WHERE_INLINE = 1, /* data follows */
  MB_WHERE_LENT = 2,   /* in arena `arena` of the sender at `offset`; `id` is to be given back */
  MB_WHERE_BACK = 3,   /* the receiver's own buffer with lend id `id`, perhaps with other meta */
  MB_WHERE_HOLE = 4    /* a placeholder */
};

typedef struct mb_peer mb_peer;

/* `private_maps`: map the other side's arenas copy-on-write (workers, so that user code may scribble on its
 * inputs) instead of read-only (the daemon). Payloads up to `inline_limit` bytes travel inline. */
mb_peer *mb_peer_new(mb_pool *pool, uint32_t inline_limit, int32_t private_maps, mb_error *error);
/* The other side is gone: takes back everything lent. Mappings live on until the last buffer in them goes. */
void mb_peer_close(mb_peer *peer);
void mb_peer_free(mb_peer *peer);
/* How much of the other side's memory may be mapped here at a time, mappings that buffers alone keep included; without
 * this no limit. */
void mb_peer_limit(mb_peer *peer, uint32_t arenas, uint64_t arena_bytes);
void mb_peer_mapped(mb_peer *peer, uint32_t *arenas, uint64_t *arena_bytes);
/* Maps an arena of the other side; `fd` stays the caller's. -MB_INVALID when it is no memfd of ordinary pages,
 * unsealed, empty, larger than `max_size` or what the limit leaves, or the number is taken; -MB_NOBUFS beyond the
 * limit. */
int32_t mb_peer_map(mb_peer *peer, uint32_t arena, int32_t fd, uint64_t max_size, mb_error *error);
/* Appends encoded items [from, ...) of `list` to out[*used, capacity); stops when the next one does not fit.
 * Returns how many were encoded (0: the first one does not fit), or a negative status. */
int32_t mb_peer_encode(mb_peer *peer, const mb_list *list, uint32_t from, uint32_t count, uint8_t *out,
                       uint64_t capacity, uint64_t *used, mb_error *error);
/* Arenas that encoded buffers refer to and the other side does not have yet: fills ids and fds (borrowed)
 * and counts them as sent. Send them before the message. */
uint32_t mb_peer_take_fds(mb_peer *peer, uint32_t *arenas, int32_t *fds, uint32_t capacity);
/* Decodes exactly `count` buffers from bytes[*used, size) and appends them, sealed. Nothing is appended on failure. */
int32_t mb_peer_decode(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, uint32_t count,
                       mb_list *list, mb_error *error);
/* The other side gives lent buffers back. -MB_INVALID when an id is not lent (those before it are released). */
int32_t mb_peer_release(mb_peer *peer, const uint64_t *ids, uint32_t count, mb_error *error);
/* Ids that this side is done with and must give back to the other: fills at most `capacity`. */
uint32_t mb_peer_take_done(mb_peer *peer, uint64_t *ids, uint32_t capacity);
/* Arenas sent to the other side that are gone here: it should unmap them. Fills at most `capacity`. */
uint32_t mb_peer_take_gone(mb_peer *peer, uint32_t *arenas, uint32_t capacity);
/* Forgets an arena of the other side; its mapping goes with the last buffer in it. -MB_NOTFOUND when unknown. */
int32_t mb_peer_unmap(mb_peer *peer, uint32_t arena);
/* Buffers and bytes lent out now. */
void mb_peer_lent(const mb_peer *peer, uint64_t *buffers, uint64_t *bytes);

/* ---- messages: calls and results, as modelboxd/workers/protocol.py draws them -----------------------------
 * Writing: begin, then per call or result its head and ports, then finish. Whatever goes wrong, undo takes back
 * what the message has lent, and the ids it would have returned. One user at a time.
 * Reading: everything is checked; `bytes` must be memory that the sender cannot change any more. */

#define MB_MESSAGE_HEADER 24
#define MB_MESSAGE_LARGE 1      /* header flag: the body lies in the sender's arena */
#define MB_MESSAGE_MAX_PORTS 64 /* of one call or result */
#define MB_SESSION_ID 40
#define MB_RESULT_ERROR 1 /* result flag: the call failed; only then there is a text */
#define MB_RESULT_FLAGS 0x7fu
#define MB_RESULT_TEXT 65536u /* bytes, at most */

typedef struct mb_call_head {
  uint64_t stream, session;
  uint32_t flags, ports;
  char session_id[MB_SESSION_ID];
} mb_call_head;

typedef struct mb_result_head {
  uint32_t flags, ports, status, text_size;
} mb_result_head;

typedef struct mb_writer mb_writer;

mb_writer *mb_writer_new(mb_peer *peer);
void mb_writer_free(mb_writer *writer);
void mb_writer_begin(mb_writer *writer);
int32_t mb_writer_call(mb_writer *writer, const mb_call_head *head, mb_error *error);
/* `text` of head->text_size bytes follows the head. */
int32_t mb_writer_result(mb_writer *writer, const mb_result_head *head, const char *text, mb_error *error);
/* One port: its stream meta and buffers. */
int32_t mb_writer_port(mb_writer *writer, const mb_list *list, const uint8_t *meta, uint32_t meta_size,
                       mb_error *error);
/* Appends the ids that go back to the other side and fills in the header. A message above `limit` bytes becomes
 * LARGE, its body a buffer of `pool`. `*message` is valid until the next call with this writer. Returns how many ids
 * go back, or a negative status, -MB_NOBUFS for a body above `body_limit`. */
int32_t mb_writer_finish(mb_writer *writer, uint8_t kind, uint32_t sequence, uint32_t count, mb_pool *pool,
                         uint64_t limit, uint64_t body_limit, const uint8_t **message, uint64_t *size, mb_error *error);
void mb_writer_undo(mb_writer *writer);
/* 1 when arenas are to be announced or unmapped (take_fds, take_gone) before the next message. */
int32_t mb_peer_has_news(mb_peer *peer);

/* The next call, result or port at bytes[*used, size); `*text` and `*meta` point into `bytes`. -MB_INVALID for
 * anything that does not fit; *used then stays. */
int32_t mb_read_call(const uint8_t *bytes, uint64_t size, uint64_t *used, mb_call_head *head, mb_error *error);
int32_t mb_read_result(const uint8_t *bytes, uint64_t size, uint64_t *used, mb_result_head *head, const char **text,
                       mb_error *error);
int32_t mb_read_port(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, mb_list *list,
                     const uint8_t **meta, uint32_t *meta_size, mb_error *error);
/* `count` ids that come back: released here. */
int32_t mb_read_released(mb_peer *peer, const uint8_t *bytes, uint64_t size, uint64_t *used, uint32_t count,
                         mb_error *error);

/* ---- process-wide ---------------------------------------------------------------------------------------- */

/* Makes malloc keep what it frees (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD): page faults rule native work. */
void mb_tune_malloc(void);
/* Gives what malloc keeps without use back to the kernel, and names this thread for ps, top and gdb (15 bytes). */
void mb_trim_malloc(void);
void mb_name_thread(const char *name);
/* Writes the native stack of every thread to `fd`, as text. A thread that does not answer within 0.2 s is named without
 * one. 0, or -MB_BUSY when a library of this process uses the signal for it (SIGRTMAX-3). */
int32_t mb_stacks_dump(int32_t fd);
/* From now on, signal `number` writes them to `fd`, and "end of stacks" as the last line, whatever the threads do. A
 * handler that there is already is called before. Another call changes `fd`. 0, or -MB_INVALID for no such signal. */
int32_t mb_stacks_on_signal(int32_t number, int32_t fd);
/* Lines below this level are not passed on. */
void mb_log_set_level(int32_t level);
/* Where log lines of native code go; NULL = nowhere. */
void mb_log_set_sink(void (*sink)(int32_t level, const char *message));
/* When the process crashes, what can be read from `from` (non-blocking) is copied to `to`; -1 = no longer. A handler
   of the same signals that was there before is replaced; one that is installed later should call this one. */
void mb_save_last_words(int32_t from, int32_t to);

#ifdef MB_CFFI
extern "Python" void mb_python_log(int32_t level, const char *message);
#endif

#endif
