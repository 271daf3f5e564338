// What the units that scale images have in common: options, ports, and images as OpenCV sees them.
#pragma once

#include <opencv2/imgproc.hpp>
#include <string>

#include "unit.hpp"

namespace mbu {

inline constexpr const char *kInterpolations =
    "inter_linear|inter_nearest|inter_cubic|inter_area|inter_lanczos4|inter_max|warp_fill_outliers|warp_inverse_map";

// inter_max and the warp_* words are flags that resize() cannot use; the original accepts them, and so do we: linear.
inline int interpolation_of(const std::string &word) {
  if (word == "inter_linear" || word == "inter_max" || word == "warp_fill_outliers" || word == "warp_inverse_map") {
    return cv::INTER_LINEAR;
  }
  if (word == "inter_nearest") return cv::INTER_NEAREST;
  if (word == "inter_cubic") return cv::INTER_CUBIC;
  if (word == "inter_area") return cv::INTER_AREA;
  if (word == "inter_lanczos4") return cv::INTER_LANCZOS4;
  throw OptionError(text("option interpolation = \"%s\" must be one of %s", word.c_str(), kInterpolations));
}

inline int cv_type(const Image &image) {
  return CV_MAKETYPE(image.dtype == MB_DTYPE_FLOAT ? CV_32F : CV_8U, static_cast<int>(image.channels));
}

// A header over memory that is only read.
inline cv::Mat mat_of(const Image &image) {
  return cv::Mat(static_cast<int>(image.height), static_cast<int>(image.width), cv_type(image),
                 const_cast<uint8_t *>(image.data), static_cast<size_t>(image.stride));
}

inline constexpr mb_port kImageIn[] = {{"in_image", "image", nullptr}};
inline constexpr mb_port kImageOut[] = {{"out_image", "image", nullptr}};

// The size of the result goes by two pairs of names; both are the original's.
inline constexpr mb_option kImageWidth = {"image_width", "int", nullptr, 0, "width of the result in pixels", nullptr};
inline constexpr mb_option kImageHeight = {"image_height", "int", nullptr, 0, "height of the result in pixels",
                                           nullptr};
inline constexpr mb_option kWidth = {"width", "int", nullptr, 0, "the same as image_width", nullptr};
inline constexpr mb_option kHeight = {"height", "int", nullptr, 0, "the same as image_height", nullptr};
inline constexpr mb_option kInterpolation = {"interpolation",           "string",       "inter_linear", 0,
                                             "how pixels are computed", kInterpolations};

// What the options above say.
struct Scaling {
  int width, height, interpolation;

  explicit Scaling(const Options &options) {
    const char *wide = options.has("image_width") ? "image_width" : "width";
    const char *high = options.has("image_height") ? "image_height" : "height";
    if (!options.has(wide)) throw OptionError("option image_width is missing");
    if (!options.has(high)) throw OptionError("option image_height is missing");
    width = static_cast<int>(options.number(wide, 0, 1, 65536));
    height = static_cast<int>(options.number(high, 0, 1, 65536));
    interpolation = interpolation_of(options.word("interpolation", "inter_linear"));
    cv::setNumThreads(0);  // the engine runs several buffers at once; OpenCV's own threads would only get in the way
  }
};

}  // namespace mbu
