// image_decoder: JPEG, PNG and what else OpenCV reads, into packed pixels.
// in_encoded_image: the file's bytes (or, with `key`, JSON that holds them in base64); out_image: uint8, image meta.
// An image that cannot be decoded becomes an error buffer ImageDecoder.DecodeFailed.
//
// JPEG goes straight from the input into the output buffer by libjpeg-turbo, with the settings that OpenCV uses, so
// that the pixels are those of cv2.imdecode(data, IMREAD_COLOR). The rest, and JPEGs with an EXIF rotation, take
// OpenCV's path. A JPEG that was cut off is an error, as in newer OpenCV (older ones give a partly grey image).
#include <turbojpeg.h>

#include <memory>
#include <optional>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "../common/unit.hpp"
#include "base64.hpp"
#include "header.hpp"

namespace {

enum class Format { kBgr, kRgb, kNv12 };

struct State {
  Format format;
  int64_t max_pixels;
  std::string key;
};

using mbu::BufferError;

using image_header::Bytes;

BufferError failed(const std::string &message) { return BufferError(message, "DecodeFailed"); }

int32_t open(const mb_host *host, const mb_config *config, void **state) {
  return mbu::open_state<State>(host, config, state, [](const mbu::Options &options) {
    std::string word = options.word("pix_fmt", "bgr");
    Format format = Format::kBgr;
    if (word == "rgb") {
      format = Format::kRgb;
    } else if (word == "nv12") {
      format = Format::kNv12;
    } else if (word != "bgr") {
      throw mbu::OptionError(mbu::text("option pix_fmt = \"%s\" must be bgr, rgb or nv12", word.c_str()));
    }
    cv::setNumThreads(0);
    return new State{format, options.number("max_pixels", 100000000, 1, 1ll << 32), options.word("key", "")};
  });
}

void check_size(const State &state, const image_header::Size &size) {
  if (size.width < 1 || size.height < 1 || size.width > 65536 || size.height > 65536 ||
      size.width * size.height > state.max_pixels) {
    throw failed(
        mbu::text("the image claims %lld x %lld pixels; allowed are %lld in all (max_pixels), 1 to 65536 a side",
                  static_cast<long long>(size.width), static_cast<long long>(size.height),
                  static_cast<long long>(state.max_pixels)));
  }
}

// ---- decoding ------------------------------------------------------------------------------------------------

void push_image(const mb_host *host, mb_call *call, mbu::Output &output, int width, int height, Format format) {
  mbu::write_image_meta(host, output.get(), width, height, 3, format == Format::kRgb ? "rgb" : "bgr", MB_DTYPE_UINT8);
  output.push(call);
}

// nv12: a plane of luma, then a plane of interleaved chroma at half size. Odd sizes lose their last row or column.
void push_nv12(const mb_host *host, mb_call *call, const cv::Mat &bgr) {
  int width = bgr.cols & ~1, height = bgr.rows & ~1;
  if (width == 0 || height == 0) throw failed("an image of one pixel's width or height has no nv12 form");
  mbu::Output output(host, call, static_cast<uint64_t>(width) * height * 3 / 2);
  cv::Mat planes(height * 3 / 2, width, CV_8UC1, output.data());
  cv::cvtColor(bgr(cv::Rect(0, 0, width, height)), planes, cv::COLOR_BGR2YUV_I420);
  size_t luma = static_cast<size_t>(width) * height;
  const std::vector<uint8_t> chroma(planes.data + luma, planes.data + luma / 2 * 3);
  const uint8_t *u = chroma.data(), *v = u + luma / 4;
  uint8_t *to = planes.data + luma;
  for (size_t at = 0; at < luma / 4; at++) {
    to[2 * at] = u[at];
    to[2 * at + 1] = v[at];
  }
  const int64_t shape[3] = {static_cast<int64_t>(height) * 3 / 2, width, 1};
  mb_buffer *buffer = output.get();
  host->meta_set_int(buffer, "width", width);
  host->meta_set_int(buffer, "height", height);
  host->meta_set_int(buffer, "width_stride", width);
  host->meta_set_int(buffer, "height_stride", height);
  host->meta_set_int(buffer, "channel", 1);
  host->meta_set_string(buffer, "pix_fmt", "nv12");
  host->meta_set_string(buffer, "layout", "hwc");
  host->meta_set_ints(buffer, "shape", shape, 3);
  host->meta_set_dtype(buffer, "type", MB_DTYPE_UINT8);
  host->buffer_set_kind(buffer, MB_KIND_IMAGE);
  output.push(call);
}

void decode_other(const mb_host *host, mb_call *call, const State &state, const Bytes &bytes) {
  cv::Mat raw(1, static_cast<int>(bytes.size), CV_8UC1, const_cast<uint8_t *>(bytes.data));
  cv::Mat image;
  try {
    image = cv::imdecode(raw, cv::IMREAD_COLOR);
  } catch (const cv::Exception &) {
    image.release();
  }
  if (image.empty()) throw failed("the image data is damaged");
  check_size(state, {image.cols, image.rows});
  if (state.format == Format::kNv12) {
    push_nv12(host, call, image);
    return;
  }
  mbu::Output output(host, call, static_cast<uint64_t>(image.rows) * image.cols * 3);
  cv::Mat to(image.rows, image.cols, CV_8UC3, output.data());
  if (state.format == Format::kRgb) {
    cv::cvtColor(image, to, cv::COLOR_BGR2RGB);
  } else {
    image.copyTo(to);
  }
  push_image(host, call, output, image.cols, image.rows, state.format);
}

void decode_jpeg(const mb_host *host, mb_call *call, const State &state, const Bytes &bytes) {
  image_header::Jpeg header = image_header::read_jpeg(bytes);
  if (header.scan == 0 || header.size.width == 0) throw failed("the JPEG header is damaged");
  check_size(state, header.size);
  if (!header.ends_properly) throw failed("the JPEG was cut off: it has no end");
  // With Huffman codes, a block of 8 x 8 pixels takes at least one bit: less data cannot hold such an image.
  if (header.huffman && static_cast<uint64_t>(header.size.width * header.size.height) / 512 > bytes.size) {
    throw failed(mbu::text("the JPEG claims %lld x %lld pixels, too many for its %llu bytes",
                           static_cast<long long>(header.size.width), static_cast<long long>(header.size.height),
                           static_cast<unsigned long long>(bytes.size)));
  }
  // A new decoder for each image costs less than a microsecond; an old one remembers tables, and errors for ever.
  std::unique_ptr<void, int (*)(tjhandle)> handle(tjInitDecompress(), tjDestroy);
  int width = 0, height = 0, subsampling = 0, colours = 0;
  bool plain =
      handle && tjDecompressHeader3(handle.get(), bytes.data, bytes.size, &width, &height, &subsampling, &colours) == 0;
  plain = plain && width == header.size.width && height == header.size.height && header.orientation == 1 &&
          (colours == TJCS_YCbCr || colours == TJCS_GRAY || colours == TJCS_RGB);
  if (!plain) {
    decode_other(host, call, state, bytes);
    return;
  }
  std::optional<mbu::Output> output;
  cv::Mat scratch;
  if (state.format == Format::kNv12) {
    scratch.create(height, width, CV_8UC3);
  } else {
    output.emplace(host, call, static_cast<uint64_t>(width) * height * 3);
  }
  uint8_t *to = output ? output->data() : scratch.data;
  int pixel = state.format == Format::kRgb ? TJPF_RGB : TJPF_BGR;
  // Damage inside the data is a warning that still gives an image, as it does with OpenCV.
  int status = tjDecompress2(handle.get(), bytes.data, bytes.size, to, width, 0, height, pixel, TJFLAG_LIMITSCANS);
  if (status != 0 && tjGetErrorCode(handle.get()) == TJERR_FATAL) {
    throw failed(mbu::text("the JPEG is damaged: %s", tjGetErrorStr2(handle.get())));
  }
  if (output) {
    push_image(host, call, *output, width, height, state.format);
  } else {
    push_nv12(host, call, scratch);
  }
}

void decode(const mb_host *host, mb_call *call, const State &state, const Bytes &bytes) {
  if (bytes.size == 0) throw failed("there is no data");
  if (bytes.size > INT32_MAX) throw failed("the data is too large");
  if (image_header::is_jpeg(bytes)) {
    decode_jpeg(host, call, state, bytes);
    return;
  }
  std::optional<image_header::Size> size = image_header::other_size(bytes);
  if (!size) throw failed("the data is no image of a known format (JPEG, PNG, BMP, WebP, TIFF, PNM, JPEG 2000, HDR)");
  check_size(state, *size);
  decode_other(host, call, state, bytes);
}

int32_t process(const mb_host *host, void *opaque, mb_call *call) {
  const State &state = *static_cast<State *>(opaque);
  return mbu::each(host, call, "ImageDecoder", [&](const mb_buffer *input) {
    Bytes bytes{static_cast<const uint8_t *>(host->buffer_data(input)), host->buffer_size(input)};
    if (state.key.empty() || bytes.size == 0) {
      decode(host, call, state, bytes);
      return;
    }
    std::string_view body(reinterpret_cast<const char *>(bytes.data), bytes.size);
    std::vector<uint8_t> decoded = image_json::decode(body, state.key);
    decode(host, call, state, {decoded.data(), decoded.size()});
  });
}

constexpr mb_port inputs[] = {{"in_encoded_image", "buff", nullptr}};
constexpr mb_port outputs[] = {{"out_image", "image", nullptr}};
constexpr mb_option options[] = {
    {"pix_fmt", "string", "bgr", 0, "format of the result", "bgr|rgb|nv12"},
    {"max_pixels", "int", "100000000", 0, "largest image that is decoded, width x height", nullptr},
    {"key", "string", "", 0, "the input is JSON and holds the image in base64 under this key", nullptr},
};
constexpr mb_unit unit = mbu::image_unit<State>("image_decoder", "Decodes JPEG, PNG and other images.", inputs, outputs,
                                                options, open, process);

}  // namespace

MBU_PLUGIN(unit)
