// The words of the `interpolation` option, as OpenCV's numbers.
#pragma once

#include <opencv2/imgproc.hpp>
#include <string>

#include "unit.hpp"

namespace mbu {

inline const char *const kInterpolations =
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

}  // namespace mbu
