/* Units of every kind that do next to nothing, so that what is measured is the engine. */
#include <modelbox/plugin.h>
#include <stdatomic.h>

static int32_t process_pass(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

/* One port, then the other. */
static int32_t process_turn(const mb_host *host, void *state, mb_call *call) {
  static atomic_uint turn;
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  return host->push(call, atomic_fetch_add(&turn, 1) % 2, host->buffer_ref(inputs[0]));
}

static int32_t process_four(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (int copy = 0; copy < 4; copy++) host->push(call, 0, host->buffer_ref(inputs[0]));
  return 0;
}

static int32_t process_first(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  return host->push(call, 0, host->buffer_ref(inputs[0]));
}

static const mb_port in_port[] = {{"in", NULL, NULL}};
static const mb_port outs[] = {{"out", NULL, NULL}, {"other", NULL, NULL}};

#define UNIT(label, bits, ports, function)                            \
  static const mb_unit label = {.struct_size = sizeof(mb_unit),       \
                                .flags = (bits),                      \
                                .name = #label,                       \
                                .device = "cpu",                      \
                                .version = "1.0.0",                   \
                                .description = "measures the engine", \
                                .group = "Generic",                   \
                                .inputs = in_port,                    \
                                .input_count = 1,                     \
                                .outputs = outs,                      \
                                .output_count = (ports),              \
                                .default_batch_size = 32,             \
                                .max_batch_size = 32,                 \
                                .process = (function)}

UNIT(kind_normal, 0, 1, process_pass);
UNIT(kind_stream, MB_UNIT_STREAM, 1, process_pass);
UNIT(kind_condition, MB_UNIT_CONDITION, 2, process_turn);
UNIT(kind_expand, MB_UNIT_EXPAND, 1, process_four);
UNIT(kind_collapse, MB_UNIT_COLLAPSE, 1, process_first);
UNIT(kind_loop, MB_UNIT_LOOP, 2, process_turn);

static const mb_unit *const units[] = {&kind_normal, &kind_stream,   &kind_condition,
                                       &kind_expand, &kind_collapse, &kind_loop};
static const mb_plugin plugin = {.struct_size = sizeof(mb_plugin),
                                 .abi_major = MB_ABI_MAJOR,
                                 .abi_minor = MB_ABI_MINOR,
                                 .name = "kinds",
                                 .version = "1.0.0",
                                 .units = units,
                                 .unit_count = sizeof units / sizeof units[0]};

MB_EXPORT const mb_plugin *mb_plugin_entry_v1(void) { return &plugin; }
