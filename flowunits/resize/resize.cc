// resize: scales images to a fixed size.
// in_image: packed uint8 or float, rgb, bgr, gray (or meta channel 1 to 4); out_image: the same, with the image meta.
#include "../common/interpolation.hpp"

namespace {

struct State {
  int width, height, interpolation;
};

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_state<State>(host, config, state, [](const mbu::Options &options) {
    const char *width = options.has("image_width") ? "image_width" : "width";
    const char *height = options.has("image_height") ? "image_height" : "height";
    if (!options.has(width)) throw mbu::OptionError("option image_width is missing");
    if (!options.has(height)) throw mbu::OptionError("option image_height is missing");
    cv::setNumThreads(0);  // the engine runs several buffers at once; OpenCV's own threads would only get in the way
    return new State{static_cast<int>(options.number(width, 0, 1, 65536)),
                     static_cast<int>(options.number(height, 0, 1, 65536)),
                     mbu::interpolation_of(options.word("interpolation", "inter_linear"))};
  });
}

int32_t process(const mb_host *host, void *opaque, mb_call *call) {
  const State &state = *static_cast<State *>(opaque);
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

const mb_port inputs[] = {{"in_image", "image", nullptr}};
const mb_port outputs[] = {{"out_image", "image", nullptr}};
const mb_option options[] = {
    {"image_width", "int", nullptr, 0, "width of the result in pixels", nullptr},
    {"image_height", "int", nullptr, 0, "height of the result in pixels", nullptr},
    {"width", "int", nullptr, 0, "the same as image_width", nullptr},
    {"height", "int", nullptr, 0, "the same as image_height", nullptr},
    {"interpolation", "string", "inter_linear", 0, "how pixels are computed", mbu::kInterpolations},
};
const mb_unit unit = {sizeof(mb_unit),
                      MB_UNIT_ELEMENTWISE,
                      "resize",
                      "cpu",
                      "1.0.0",
                      "Scales images to a fixed size.",
                      "Image",
                      inputs,
                      1,
                      outputs,
                      1,
                      options,
                      5,
                      0,
                      0,
                      open,
                      mbu::close_state<State>,
                      process,
                      nullptr,
                      nullptr};

}  // namespace

MBU_PLUGIN(unit)
