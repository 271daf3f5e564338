// mean: Subtracts a number per channel.
// in_data: 3 channels, uint8 or float, planar or (meta layout hwc) interleaved, meta shape and type;
// out_data: float, the same meta.
#include "../common/per_channel.hpp"

namespace {

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_channels(host, config, state, "mean");
}

int32_t process(const mb_host *host, void *state, mb_call *call) {
  const mbu::Channels &channels = *static_cast<mbu::Channels *>(state);
  return mbu::per_channel(host, call, "Mean", channels, [](float value, float channel) { return value - channel; });
}

constexpr mb_option options[] = {
    {"mean", "list", nullptr, 1, "three numbers, one per channel, that are subtracted", nullptr}};
constexpr mb_unit unit = mbu::image_unit<mbu::Channels>("mean", "Subtracts a number per channel.", mbu::kTensorIn,
                                                        mbu::kTensorOut, options, open, process);

}  // namespace

MBU_PLUGIN(unit)
