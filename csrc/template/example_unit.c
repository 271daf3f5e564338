#include <modelbox/plugin.h>

/* Inverts every byte; an image comes out as its negative, with the same meta. */
static int32_t process(const mb_host *host, void *state, mb_call *call) {
  uint32_t count = 0;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t i = 0; i < count; i++) {
    uint64_t size = host->buffer_size(inputs[i]);
    mb_buffer *output = host->buffer_new(call, size);
    if (output == NULL) return -MB_NOMEM;
    const uint8_t *from = (const uint8_t *)host->buffer_data(inputs[i]);
    uint8_t *to = (uint8_t *)host->buffer_writable(output);
    for (uint64_t at = 0; at < size; at++) to[at] = (uint8_t)(255 - from[at]);
    host->meta_copy(output, inputs[i]);
    host->buffer_set_kind(output, host->buffer_kind(inputs[i]));
    host->push(call, 0, output);
  }
  (void)state;
  return 0;
}

static const mb_port inputs[] = {{"in_data", "raw", NULL}};
static const mb_port outputs[] = {{"out_data", "raw", NULL}};
/* clang-format off */
static const mb_unit unit = {
    sizeof(mb_unit), MB_UNIT_ELEMENTWISE,
    "invert", "cpu", "1.0.0", "Inverts every byte.", "Generic",
    inputs, 1, outputs, 1,
    NULL, 0,                          /* options: none */
    0, 0,                             /* batch size, its limit: whatever the host likes */
    NULL, NULL, process, NULL, NULL}; /* open, close, process, stream_begin, stream_end */
/* clang-format on */
static const mb_unit *const units[] = {&unit};
static const mb_plugin plugin = {sizeof(mb_plugin), MB_ABI_MAJOR, MB_ABI_MINOR, "invert", "1.0.0", units, 1, 0, NULL};

const mb_plugin *mb_plugin_entry_v1(void) { return &plugin; }
