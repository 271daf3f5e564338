// resize: scales images to a fixed size.
// in_image: packed uint8 or float, rgb, bgr, gray (or meta channel 1 to 4); out_image: the same, with the image meta.
#include "../common/scaling.hpp"

namespace {

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_state<mbu::Scaling>(host, config, state,
                                       [](const mbu::Options &options) { return new mbu::Scaling(options); });
}

int32_t process(const mb_host *host, void *opaque, mb_call *call) {
  const mbu::Scaling &state = *static_cast<mbu::Scaling *>(opaque);
  return mbu::each(host, call, "Resize", [&](const mb_buffer *input) {
    mbu::Image image = mbu::read_image(host, input);
    uint64_t size = static_cast<uint64_t>(state.width) * state.height * image.channels * image.element();
    mbu::Output output(host, call, size);
    cv::Mat to(state.height, state.width, mbu::cv_type(image), output.data());
    cv::resize(mbu::mat_of(image), to, to.size(), 0, 0, state.interpolation);
    mbu::write_image_meta(host, output.get(), state.width, state.height, image.channels, image.pix_fmt.c_str(),
                          image.dtype);
    output.push(call);
  });
}

constexpr mb_option options[] = {mbu::kImageWidth, mbu::kImageHeight, mbu::kWidth, mbu::kHeight, mbu::kInterpolation};
constexpr mb_unit unit = mbu::image_unit<mbu::Scaling>("resize", "Scales images to a fixed size.", mbu::kImageIn,
                                                       mbu::kImageOut, options, open, process);

}  // namespace

MBU_PLUGIN(unit)
