/* The native units of random graphs: what tests/property/script.py says, in C. */
#include <modelbox/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PORTS = 3, BRANCHES = 4, TEXT = 128, COPIES = 3 };

typedef struct {
  char op[16];
  int64_t seed;
  int64_t back; /* of a loop: the output port that leads back */
} script;

typedef struct {
  int64_t number;
} stream;

static uint32_t fnv1a_more(uint32_t value, const char *text) {
  for (; *text != '\0'; text++) value = (value ^ (uint8_t)*text) * 0x01000193u;
  return value;
}

static uint32_t fnv1a_int(uint32_t value, int64_t number) {
  char text[24];
  snprintf(text, sizeof text, "%lld", (long long)number);
  return fnv1a_more(value, text);
}

/* The texts of one position, joined by "/" and with a "/" in front. */
static uint32_t fnv1a_row(uint32_t value, char row[PORTS][TEXT], uint32_t inputs) {
  for (uint32_t port = 0; port < inputs; port++) value = fnv1a_more(fnv1a_more(value, "/"), row[port]);
  return value;
}

static uint32_t dice(const script *self, uint32_t sides, char row[PORTS][TEXT], uint32_t inputs) {
  return (fnv1a_row(fnv1a_int(0x811C9DC5u, self->seed), row, inputs) >> 8) % sides;
}

/* As dice(), of the row with one more text in front. */
static uint32_t dice_of(const script *self, const char *what, uint32_t sides, char row[PORTS][TEXT], uint32_t inputs) {
  uint32_t hash = fnv1a_more(fnv1a_more(fnv1a_int(0x811C9DC5u, self->seed), "/"), what);
  return (fnv1a_row(hash, row, inputs) >> 8) % sides;
}

/* The beginning of every word: the seed, and one number. */
static uint32_t begin_word(const script *self, int64_t number) {
  return fnv1a_int(fnv1a_more(fnv1a_int(0x811C9DC5u, self->seed), "/"), number);
}

static int32_t script_open(const mb_host *host, const mb_config *config, void **state) {
  script *self = (script *)calloc(1, sizeof *self);
  if (self == NULL) return -MB_NOMEM;
  snprintf(self->op, sizeof self->op, "%s", host->config_string(config, "op", "map"));
  if (host->config_int(config, "seed", 0, &self->seed) != 0 || host->config_int(config, "back", 0, &self->back) != 0) {
    free(self);
    return -MB_BADCONF;
  }
  *state = self;
  return 0;
}

static void script_close(const mb_host *host, void *state) {
  (void)host;
  free(state);
}

static int is(const script *self, const char *op) { return strcmp(self->op, op) == 0; }

static int32_t push_word(const mb_host *host, mb_call *call, uint32_t port, uint32_t hash) {
  char text[16];
  snprintf(text, sizeof text, "%08x", (unsigned)hash);
  mb_buffer *buffer = host->buffer_new(call, 8);
  if (buffer == NULL) return -MB_NOMEM;
  memcpy(host->buffer_writable(buffer), text, 8);
  host->buffer_set_kind(buffer, MB_KIND_STRING);
  return host->push(call, port, buffer);
}

/* The texts of position `at`; a seen error is "!CODE". */
static void read_row(const mb_host *host, mb_call *call, uint32_t inputs, uint32_t at, char row[PORTS][TEXT]) {
  for (uint32_t port = 0; port < inputs; port++) {
    uint32_t count = 0;
    const mb_buffer *buffer = host->inputs(call, port, &count)[at];
    const char *code = NULL, *message = NULL;
    if (host->buffer_error(buffer, &code, &message)) {
      snprintf(row[port], TEXT, "!%s", code);
    } else {
      uint64_t size = host->buffer_size(buffer);
      if (size >= TEXT) size = TEXT - 1;
      if (size) memcpy(row[port], host->buffer_data(buffer), size);
      row[port][size] = '\0';
    }
  }
}

/* What NORMAL and STREAM units do alike: 1 when `op` has decided about this position, else 0; negative: the call fails.
 */
static int32_t special(const mb_host *host, const script *self, mb_call *call, char row[PORTS][TEXT], uint32_t inputs,
                       uint32_t outputs, uint32_t at) {
  uint32_t count = 0;
  if (is(self, "picky") && dice(self, 4, row, inputs) == 0) {
    for (uint32_t port = 0; port < outputs; port++) host->push_error(call, port, "Script.Refused", "refused");
    return 1;
  }
  if (is(self, "forward") && (row[0][0] == '!' || dice(self, 2, row, inputs) == 0)) {
    mb_buffer *first = host->inputs(call, 0, &count)[at];
    for (uint32_t port = 0; port < outputs; port++) host->push(call, port, host->buffer_ref(first));
    return 1;
  }
  return 0;
}

static int32_t run_normal(const mb_host *host, const script *self, mb_call *call, uint32_t inputs, uint32_t outputs) {
  uint32_t count = 0;
  host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) {
    char row[PORTS][TEXT];
    read_row(host, call, inputs, at, row);
    if (is(self, "fail") && dice(self, 4, row, inputs) == 0) {
      host->set_error(call, "scripted");
      return -MB_FAULT;
    }
    if (special(host, self, call, row, inputs, outputs, at)) continue;
    uint32_t odd = is(self, "count") ? dice(self, 12, row, inputs) : 2;
    for (uint32_t port = 0; port < outputs; port++) {
      uint32_t hash = fnv1a_int(fnv1a_more(fnv1a_int(0x811C9DC5u, self->seed), "/"), port);
      hash = fnv1a_row(hash, row, inputs);
      if (!(port == 0 && odd == 0)) push_word(host, call, port, hash);
      if (port == 0 && odd == 1) push_word(host, call, port, hash);
    }
  }
  return 0;
}

static int32_t run_stream(const mb_host *host, const script *self, mb_call *call, uint32_t inputs, uint32_t outputs) {
  stream *state = (stream *)*host->stream_state(call);
  uint32_t count = 0;
  host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) {
    char row[PORTS][TEXT];
    read_row(host, call, inputs, at, row);
    if (is(self, "fail") && dice(self, 4, row, inputs) == 0) {
      host->set_error(call, "scripted");
      return -MB_FAULT;
    }
    state->number++;
    if (special(host, self, call, row, inputs, outputs, at)) continue;
    uint32_t thrown = dice(self, 3, row, inputs);
    for (uint32_t port = 0; port < outputs; port++) {
      uint32_t copies = is(self, "thin") ? thrown != 0 : is(self, "multiply") ? thrown : 1;
      if (is(self, "uneven")) copies = (thrown + port) % COPIES;
      for (uint32_t copy = 0; copy < copies; copy++) {
        uint32_t hash = fnv1a_int(fnv1a_more(fnv1a_int(0x811C9DC5u, self->seed), "/"), port);
        hash = fnv1a_int(fnv1a_more(hash, "/"), copy);
        hash = fnv1a_int(fnv1a_more(hash, "/"), state->number);
        push_word(host, call, port, fnv1a_row(hash, row, inputs));
      }
    }
  }
  return 0;
}

static int32_t begin_stream(const mb_host *host, void *self, mb_call *call) {
  stream *state = (stream *)calloc(1, sizeof *state);
  if (state == NULL) return -MB_NOMEM;
  *host->stream_state(call) = state;
  if (!is((const script *)self, "prefail")) return 0;
  host->set_error(call, "scripted");
  return -MB_FAULT;
}

static int32_t end_stream(const mb_host *host, const script *self, mb_call *call, uint32_t outputs) {
  stream *state = (stream *)*host->stream_state(call);
  for (uint32_t port = 0; state != NULL && is(self, "tail") && port < outputs; port++) {
    uint32_t hash = fnv1a_int(fnv1a_more(fnv1a_int(0x811C9DC5u, self->seed), "/"), port);
    push_word(host, call, port, fnv1a_int(fnv1a_more(hash, "/end/"), state->number));
  }
  free(state);
  *host->stream_state(call) = NULL;
  return 0;
}

static int32_t fail(const mb_host *host, mb_call *call) {
  host->set_error(call, "scripted");
  return -MB_FAULT;
}

static int32_t run_condition(const mb_host *host, void *state, mb_call *call, uint32_t outputs) {
  const script *self = (const script *)state;
  char row[PORTS][TEXT];
  read_row(host, call, 1, 0, row);
  uint32_t port = dice(self, outputs, row, 1), count = 0;
  if (is(self, "fail") && dice_of(self, "f", 4, row, 1) == 0) return fail(host, call);
  if (is(self, "picky") && dice_of(self, "p", 4, row, 1) == 0) {
    return host->push_error(call, port, "Script.Refused", "refused");
  }
  if (is(self, "forward")) return host->push(call, port, host->buffer_ref(host->inputs(call, 0, &count)[0]));
  uint32_t odd = is(self, "count") ? dice_of(self, "c", 12, row, 1) : 2, other = (port + 1) % outputs;
  if (odd != 0) push_word(host, call, port, fnv1a_row(begin_word(self, port), row, 1));
  if (odd == 1) push_word(host, call, other, fnv1a_row(begin_word(self, other), row, 1));
  return 0;
}

static int32_t run_expand(const mb_host *host, void *state, mb_call *call, uint32_t outputs) {
  const script *self = (const script *)state;
  void **kept = host->stream_state(call);
  stream *numbers = kept != NULL ? (stream *)*kept : NULL; /* only where data_pre made it: stream = true */
  char row[PORTS][TEXT];
  read_row(host, call, 1, 0, row);
  if (is(self, "fail") && dice(self, 4, row, 1) == 0) return fail(host, call);
  int64_t number = numbers != NULL ? ++numbers->number : 1;
  uint32_t thrown = dice(self, 4, row, 1);
  for (uint32_t port = 0; port < outputs; port++) {
    uint32_t copies = is(self, "uneven") ? (thrown + port) % 4 : thrown;
    for (uint32_t copy = 0; copy < copies; copy++) {
      uint32_t hash = fnv1a_int(fnv1a_more(begin_word(self, port), "/"), copy);
      hash = fnv1a_int(fnv1a_more(hash, "/"), number);
      push_word(host, call, port, fnv1a_row(hash, row, 1));
    }
  }
  if (is(self, "picky") && dice_of(self, "p", 3, row, 1) == 0) {
    for (uint32_t port = 0; port < outputs; port++) host->push_error(call, port, "Script.Refused", "refused");
  }
  return 0;
}

/* A whole sub-stream at once. */
static int32_t run_collapse(const mb_host *host, void *state, mb_call *call, uint32_t outputs) {
  const script *self = (const script *)state;
  uint32_t count = 0, all = fnv1a_int(0x811C9DC5u, self->seed), words[PORTS];
  host->inputs(call, 0, &count);
  for (uint32_t port = 0; port < outputs; port++) words[port] = begin_word(self, port);
  for (uint32_t at = 0; at < count; at++) {
    char row[PORTS][TEXT];
    read_row(host, call, 1, at, row);
    all = fnv1a_row(all, row, 1);
    for (uint32_t port = 0; port < outputs; port++) words[port] = fnv1a_row(words[port], row, 1);
  }
  all >>= 8;
  if (is(self, "fail") && all % 3 == 0) return fail(host, call);
  if (is(self, "some") && all % 3 == 0) return 0;
  for (uint32_t port = 0; port < outputs; port++) {
    if (is(self, "picky") && all % 3 == 0) {
      host->push_error(call, port, "Script.Refused", "refused");
    } else {
      push_word(host, call, port, words[port]);
    }
  }
  if (is(self, "count") && all % 8 == 0) push_word(host, call, 0, words[0]);
  return 0;
}

static int32_t loop_1_2(const mb_host *host, void *state, mb_call *call) {
  const script *self = (const script *)state;
  char row[PORTS][TEXT];
  read_row(host, call, 1, 0, row);
  uint32_t port = (uint32_t)(dice(self, 2, row, 1) ? self->back : 1 - self->back);
  if (is(self, "fail") && dice_of(self, "f", 5, row, 1) == 0) return fail(host, call);
  if (is(self, "picky") && dice_of(self, "p", 5, row, 1) == 0) {
    return host->push_error(call, port, "Script.Refused", "refused");
  }
  if (is(self, "count") && dice_of(self, "c", 12, row, 1) == 0) return 0;
  return push_word(host, call, port, fnv1a_row(begin_word(self, port), row, 1));
}

static const mb_port inputs[PORTS] = {{"i0", "raw", NULL}, {"i1", "raw", NULL}, {"i2", "raw", NULL}};
static const mb_port outputs[BRANCHES] = {
    {"o0", "raw", NULL}, {"o1", "raw", NULL}, {"o2", "raw", NULL}, {"o3", "raw", NULL}};
static const mb_option options[] = {{"op", "string", "map", 0, "what it does", NULL},
                                    {"seed", "int", "0", 0, "of its hash", NULL},
                                    {"back", "int", "0", 0, "port of a loop that leads back", NULL}};

/* One unit per form: names as Form.name in tests/property/units.py makes them. */
#define NORMAL(IN, OUT)                                                                 \
  static int32_t normal_##IN##_##OUT(const mb_host *host, void *state, mb_call *call) { \
    return run_normal(host, (const script *)state, call, IN, OUT);                      \
  }
#define STREAM(IN, OUT)                                                                 \
  static int32_t stream_##IN##_##OUT(const mb_host *host, void *state, mb_call *call) { \
    return run_stream(host, (const script *)state, call, IN, OUT);                      \
  }                                                                                     \
  static int32_t end_##IN##_##OUT(const mb_host *host, void *state, mb_call *call) {    \
    return end_stream(host, (const script *)state, call, OUT);                          \
  }
#define UNIT(NAME, FLAGS, IN, OUT, PROCESS, BEGIN, END)                                                        \
  static const mb_unit NAME = {                                                                                \
      sizeof(mb_unit), FLAGS, "native_" #NAME, "cpu", "1.0.0", "scripted", "Generic",   inputs,       IN,      \
      outputs,         OUT,   options,         2,     0,       64,         script_open, script_close, PROCESS, \
      BEGIN,           END};
#define FORMS(IN, OUT)                                                                                           \
  NORMAL(IN, OUT)                                                                                                \
  STREAM(IN, OUT)                                                                                                \
  UNIT(n_##IN##_##OUT, 0, IN, OUT, normal_##IN##_##OUT, NULL, NULL)                                              \
  UNIT(n_##IN##_##OUT##_e, MB_UNIT_SEES_ERRORS, IN, OUT, normal_##IN##_##OUT, NULL, NULL)                        \
  UNIT(n_##IN##_##OUT##_w, MB_UNIT_ELEMENTWISE, IN, OUT, normal_##IN##_##OUT, NULL, NULL)                        \
  UNIT(n_##IN##_##OUT##_ew, MB_UNIT_SEES_ERRORS | MB_UNIT_ELEMENTWISE, IN, OUT, normal_##IN##_##OUT, NULL, NULL) \
  UNIT(s_##IN##_##OUT, MB_UNIT_STREAM, IN, OUT, stream_##IN##_##OUT, begin_stream, end_##IN##_##OUT)             \
  UNIT(s_##IN##_##OUT##_e, MB_UNIT_STREAM | MB_UNIT_SEES_ERRORS, IN, OUT, stream_##IN##_##OUT, begin_stream,     \
       end_##IN##_##OUT)
#define NAMES(IN, OUT) \
  &n_##IN##_##OUT, &n_##IN##_##OUT##_e, &n_##IN##_##OUT##_w, &n_##IN##_##OUT##_ew, &s_##IN##_##OUT, &s_##IN##_##OUT##_e

FORMS(1, 1)
FORMS(1, 2)
FORMS(2, 1)
FORMS(2, 2)
FORMS(3, 1)
FORMS(1, 0)

#define CONDITION(OUT)                                                              \
  static int32_t condition_##OUT(const mb_host *host, void *state, mb_call *call) { \
    return run_condition(host, state, call, OUT);                                   \
  }                                                                                 \
  UNIT(c_1_##OUT, MB_UNIT_CONDITION, 1, OUT, condition_##OUT, NULL, NULL)           \
  UNIT(c_1_##OUT##_e, MB_UNIT_CONDITION | MB_UNIT_SEES_ERRORS, 1, OUT, condition_##OUT, NULL, NULL)
#define LEVEL(OUT)                                                                                                \
  static int32_t expand_##OUT(const mb_host *host, void *state, mb_call *call) {                                  \
    return run_expand(host, state, call, OUT);                                                                    \
  }                                                                                                               \
  static int32_t collapse_##OUT(const mb_host *host, void *state, mb_call *call) {                                \
    return run_collapse(host, state, call, OUT);                                                                  \
  }                                                                                                               \
  UNIT(x_1_##OUT, MB_UNIT_EXPAND, 1, OUT, expand_##OUT, NULL, NULL)                                               \
  UNIT(x_1_##OUT##_e, MB_UNIT_EXPAND | MB_UNIT_SEES_ERRORS, 1, OUT, expand_##OUT, NULL, NULL)                     \
  UNIT(x_1_##OUT##_s, MB_UNIT_EXPAND | MB_UNIT_STREAM, 1, OUT, expand_##OUT, begin_stream, end_1_##OUT)           \
  UNIT(x_1_##OUT##_es, MB_UNIT_EXPAND | MB_UNIT_STREAM | MB_UNIT_SEES_ERRORS, 1, OUT, expand_##OUT, begin_stream, \
       end_1_##OUT)                                                                                               \
  UNIT(k_1_##OUT, MB_UNIT_COLLAPSE, 1, OUT, collapse_##OUT, NULL, NULL)                                           \
  UNIT(k_1_##OUT##_e, MB_UNIT_COLLAPSE | MB_UNIT_SEES_ERRORS, 1, OUT, collapse_##OUT, NULL, NULL)

CONDITION(2)
CONDITION(3)
CONDITION(4)
LEVEL(1)
LEVEL(2)
UNIT(l_1_2, MB_UNIT_LOOP, 1, 2, loop_1_2, NULL, NULL)
UNIT(l_1_2_e, MB_UNIT_LOOP | MB_UNIT_SEES_ERRORS, 1, 2, loop_1_2, NULL, NULL)

#define BOTH(NAME) &NAME, &NAME##_e
static const mb_unit *const units[] = {NAMES(1, 1), NAMES(1, 2), NAMES(2, 1), NAMES(2, 2), NAMES(3, 1), NAMES(1, 0),
                                       BOTH(c_1_2), BOTH(c_1_3), BOTH(c_1_4), BOTH(x_1_1), BOTH(x_1_2), &x_1_1_s,
                                       &x_1_1_es,   &x_1_2_s,    &x_1_2_es,   BOTH(k_1_1), BOTH(k_1_2), BOTH(l_1_2)};
static const mb_plugin plugin = {
    sizeof(mb_plugin), MB_ABI_MAJOR, MB_ABI_MINOR, "script", "1.0.0", units, sizeof units / sizeof units[0], 0, NULL};

const mb_plugin *mb_plugin_entry_v1(void) { return &plugin; }
