// padding: fits images into a fixed size, keeping their ratio, and fills what is left.
// in_image: packed uint8 or float; out_image: the same, with the image meta.
#include <algorithm>
#include <memory>

#include "../common/scaling.hpp"

namespace {

enum class Align { kStart, kCenter, kEnd };

struct State : mbu::Scaling {
  using mbu::Scaling::Scaling;
  Align vertical, horizontal;
  cv::Scalar fill;
  bool scale;
};

Align align_of(const std::string &word, const char *start, const char *end, const char *key) {
  if (word == start) return Align::kStart;
  if (word == "center") return Align::kCenter;
  if (word == end) return Align::kEnd;
  throw mbu::OptionError(mbu::text("option %s = \"%s\" must be %s, center or %s", key, word.c_str(), start, end));
}

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_state<State>(host, config, state, [](const mbu::Options &options) {
    auto made = std::make_unique<State>(options);
    const double black[3] = {0, 0, 0};
    std::vector<double> fill = options.numbers("padding_data", 3, black);
    made->fill = cv::Scalar(fill[0], fill[1], fill[2], 0);
    made->vertical = align_of(options.word("vertical_align", "top"), "top", "bottom", "vertical_align");
    made->horizontal = align_of(options.word("horizontal_align", "left"), "left", "right", "horizontal_align");
    made->scale = options.flag("need_scale", true);
    return made.release();
  });
}

int place(Align align, int room, int size) {
  if (align == Align::kStart) return 0;
  return align == Align::kEnd ? room - size : (room - size) / 2;
}

// The size of the image inside the frame: scaled so that it just fits, never below one pixel.
cv::Size inner_size(const State &state, const mbu::Image &image) {
  int width = static_cast<int>(image.width), height = static_cast<int>(image.height);
  if (!state.scale) {
    if (width > state.width || height > state.height) {
      throw mbu::BufferError(mbu::text("an image of %d x %d does not fit into %d x %d without need_scale", width,
                                       height, state.width, state.height));
    }
    return {width, height};
  }
  // Whole numbers: in floating point, a side that fits exactly would now and then lose a pixel.
  int64_t across = static_cast<int64_t>(state.width) * height, down = static_cast<int64_t>(state.height) * width;
  if (across <= down) return {state.width, std::max(1, static_cast<int>(across / width))};
  return {std::max(1, static_cast<int>(down / height)), state.height};
}

// Fills the frame around `inner` only; the inside is written by the caller.
void fill_around(cv::Mat &frame, const cv::Rect &inner, const cv::Scalar &value) {
  frame.rowRange(0, inner.y).setTo(value);
  frame.rowRange(inner.y + inner.height, frame.rows).setTo(value);
  cv::Mat band = frame.rowRange(inner.y, inner.y + inner.height);
  band.colRange(0, inner.x).setTo(value);
  band.colRange(inner.x + inner.width, frame.cols).setTo(value);
}

int32_t process(const mb_host *host, void *opaque, mb_call *call) {
  const State &state = *static_cast<State *>(opaque);
  return mbu::each(host, call, "Padding", [&](const mb_buffer *input) {
    mbu::Image image = mbu::read_image(host, input);
    cv::Size size = inner_size(state, image);
    cv::Rect inner(place(state.horizontal, state.width, size.width), place(state.vertical, state.height, size.height),
                   size.width, size.height);
    uint64_t bytes = static_cast<uint64_t>(state.width) * state.height * image.channels * image.element();
    mbu::Output output(host, call, bytes);
    cv::Mat frame(state.height, state.width, mbu::cv_type(image), output.data());
    fill_around(frame, inner, state.fill);
    cv::Mat inside = frame(inner);
    cv::Mat from = mbu::mat_of(image);
    if (from.size() == size) {
      from.copyTo(inside);
    } else {
      cv::resize(from, inside, size, 0, 0, state.interpolation);
    }
    mbu::write_image_meta(host, output.get(), state.width, state.height, image.channels, image.pix_fmt.c_str(),
                          image.dtype);
    output.push(call);
  });
}

constexpr mb_option options[] = {
    mbu::kImageWidth,
    mbu::kImageHeight,
    mbu::kWidth,
    mbu::kHeight,
    {"vertical_align", "string", "top", 0, "where the image stands in the frame", "top|center|bottom"},
    {"horizontal_align", "string", "left", 0, "where the image stands in the frame", "left|center|right"},
    {"padding_data", "list", "0,0,0", 0, "value of the pixels around the image, per channel", nullptr},
    {"need_scale", "bool", "true", 0, "scale the image so that it just fits", nullptr},
    mbu::kInterpolation,
};
constexpr mb_unit unit = mbu::image_unit<State>("padding", "Fits images into a fixed size and fills the rest.",
                                                mbu::kImageIn, mbu::kImageOut, options, open, process);

}  // namespace

MBU_PLUGIN(unit)
