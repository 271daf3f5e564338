// mean: Subtracts a number per channel.
// in_data: 3 channels, uint8 or float, planar or (meta layout hwc) interleaved, meta shape and type;
// out_data: float, the same meta.
#include "../common/per_channel.hpp"

namespace {

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_state<mbu::Channels>(
      host, config, state, [](const mbu::Options &options) { return mbu::read_channels(options, "mean"); });
}

int32_t process(const mb_host *host, void *state, mb_call *call) {
  const mbu::Channels &channels = *static_cast<mbu::Channels *>(state);
  return mbu::per_channel(host, call, "Mean", channels, [](float value, float channel) { return value - channel; });
}

const mb_port inputs[] = {{"in_data", "tensor", nullptr}};
const mb_port outputs[] = {{"out_data", "tensor", nullptr}};
const mb_option options[] = {
    {"mean", "list", nullptr, 1, "three numbers, one per channel, that are subtracted", nullptr}};
const mb_unit unit = {sizeof(mb_unit),
                      MB_UNIT_ELEMENTWISE,
                      "mean",
                      "cpu",
                      "1.0.0",
                      "Subtracts a number per channel.",
                      "Image",
                      inputs,
                      1,
                      outputs,
                      1,
                      options,
                      1,
                      0,
                      0,
                      open,
                      mbu::close_state<mbu::Channels>,
                      process,
                      nullptr,
                      nullptr};

}  // namespace

MBU_PLUGIN(unit)
