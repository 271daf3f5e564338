/* A unit that hands its input on, for the chain benchmark. */
#include <modelbox/plugin.h>

static int32_t process(const mb_host *host, void *state, mb_call *call) {
  (void)state;
  uint32_t count;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  for (uint32_t at = 0; at < count; at++) host->push(call, 0, host->buffer_ref(inputs[at]));
  return 0;
}

static const mb_port in_port[] = {{"in", NULL, NULL}}, out_port[] = {{"out", NULL, NULL}};
static const mb_unit unit = {sizeof(mb_unit),
                             MB_UNIT_ELEMENTWISE,
                             "pass",
                             "cpu",
                             "1.0.0",
                             "hands on",
                             "Generic",
                             in_port,
                             1,
                             out_port,
                             1,
                             NULL,
                             0,
                             32,
                             0,
                             NULL,
                             NULL,
                             process,
                             NULL,
                             NULL};
static const mb_unit *const units[] = {&unit};
static const mb_plugin plugin = {sizeof(mb_plugin), MB_ABI_MAJOR, MB_ABI_MINOR, "pass", "1.0.0", units, 1, 0, NULL};

MB_EXPORT const mb_plugin *mb_plugin_entry_v1(void) { return &plugin; }
