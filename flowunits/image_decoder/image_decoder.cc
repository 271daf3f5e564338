// image_decoder: JPEG, PNG and what else OpenCV reads, into packed pixels.
// in_encoded_image: the file's bytes (or, with `key`, JSON that holds them in base64); out_image: uint8, image meta.
// An image that cannot be decoded becomes an error buffer ImageDecoder.DecodeFailed.
//
// JPEG goes straight from the input into the output buffer by libjpeg-turbo, with the settings that OpenCV uses, so
// that the pixels are those of cv2.imdecode(data, IMREAD_COLOR). The rest, and JPEGs with an EXIF rotation, take
// OpenCV's path.
#include <turbojpeg.h>

#include <memory>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "../common/unit.hpp"

namespace {

enum class Format { kBgr, kRgb, kNv12 };

struct State {
  Format format;
  int64_t max_pixels;
  std::string key;
};

using mbu::BufferError;

struct Bytes {
  const uint8_t *data;
  uint64_t size;
};

BufferError failed(const std::string &message) { return BufferError(message, "DecodeFailed"); }

tjhandle decompressor() {
  thread_local std::unique_ptr<void, int (*)(tjhandle)> handle(tjInitDecompress(), tjDestroy);
  return handle.get();
}

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

// ---- reading sizes before anything is allocated ----------------------------------------------------------

uint32_t big16(const uint8_t *at) { return static_cast<uint32_t>(at[0]) << 8 | at[1]; }
uint32_t big32(const uint8_t *at) { return big16(at) << 16 | big16(at + 2); }
uint32_t little16(const uint8_t *at) { return static_cast<uint32_t>(at[1]) << 8 | at[0]; }
uint32_t little32(const uint8_t *at) { return little16(at + 2) << 16 | little16(at); }

void check_size(const State &state, int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > 65536 || height > 65536 || width * height > state.max_pixels) {
    throw failed(mbu::text("the image claims %lld x %lld pixels, allowed are %lld (max_pixels)",
                           static_cast<long long>(width), static_cast<long long>(height),
                           static_cast<long long>(state.max_pixels)));
  }
}

bool is_jpeg(const Bytes &bytes) {
  return bytes.size > 3 && bytes.data[0] == 0xff && bytes.data[1] == 0xd8 && bytes.data[2] == 0xff;
}

// Sizes of the other common formats; 0 where the format is not known here (OpenCV's own limits then hold).
void check_other(const State &state, const Bytes &bytes) {
  const uint8_t *d = bytes.data;
  if (bytes.size >= 24 && std::memcmp(d, "\x89PNG\r\n\x1a\n", 8) == 0) {
    check_size(state, big32(d + 16), big32(d + 20));
  } else if (bytes.size >= 26 && std::memcmp(d, "BM", 2) == 0) {
    auto height = static_cast<int32_t>(little32(d + 22));
    check_size(state, static_cast<int32_t>(little32(d + 18)), height < 0 ? -static_cast<int64_t>(height) : height);
  } else if (bytes.size >= 10 && std::memcmp(d, "GIF8", 4) == 0) {
    check_size(state, little16(d + 6), little16(d + 8));
  }
}

// The EXIF orientation of a JPEG, 1 when there is none. Every offset is checked.
uint32_t exif_orientation(const Bytes &bytes) {
  uint64_t at = 2;
  while (at + 4 <= bytes.size && bytes.data[at] == 0xff) {
    uint8_t marker = bytes.data[at + 1];
    uint64_t length = big16(bytes.data + at + 2);
    if (marker == 0xda || length < 2 || length > bytes.size - at - 2) break;
    const uint8_t *body = bytes.data + at + 4;
    uint64_t size = length - 2;
    if (marker == 0xe1 && size >= 14 && std::memcmp(body, "Exif\0\0", 6) == 0) {
      const uint8_t *tiff = body + 6;
      size -= 6;
      bool little = tiff[0] == 'I';
      auto u16 = [&](uint64_t offset) { return little ? little16(tiff + offset) : big16(tiff + offset); };
      uint64_t directory = little ? little32(tiff + 4) : big32(tiff + 4);
      if (directory + 2 > size) return 1;
      uint32_t entries = u16(directory);
      for (uint32_t entry = 0; entry < entries; entry++) {
        uint64_t place = directory + 2 + 12ull * entry;
        if (place + 12 > size) return 1;
        if (u16(place) == 0x0112) return u16(place + 8);
      }
      return 1;
    }
    at += 2 + length;
  }
  return 1;
}

// ---- base64 in JSON ------------------------------------------------------------------------------------------

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

// The string value of `key` in a flat JSON object, decoded from base64. A data: URL prefix is skipped.
std::vector<uint8_t> from_json(const Bytes &bytes, const std::string &key) {
  std::string body(reinterpret_cast<const char *>(bytes.data), bytes.size);
  size_t at = body.find('"' + key + '"');
  if (at == std::string::npos) throw failed(mbu::text("the JSON body has no key '%s'", key.c_str()));
  at = body.find_first_not_of(" \t\r\n", at + key.size() + 2);
  if (at == std::string::npos || body[at] != ':') throw failed("the body is no JSON object");
  at = body.find_first_not_of(" \t\r\n", at + 1);
  if (at == std::string::npos || body[at] != '"')
    throw failed(mbu::text("the value of '%s' is no string", key.c_str()));
  size_t end = body.find('"', at + 1);
  if (end == std::string::npos) throw failed("the body is no JSON object");
  size_t comma = body.find(',', at);
  if (body.compare(at + 1, 5, "data:") == 0 && comma != std::string::npos && comma < end) at = comma;
  std::vector<uint8_t> decoded;
  decoded.reserve((end - at) * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (size_t i = at + 1; i < end; i++) {
    char c = body[i];
    if (c == '=' || c == '\n' || c == '\r') continue;
    if (c == '\\' && i + 1 < end && (body[i + 1] == '/' || body[i + 1] == 'n')) {
      if (body[i + 1] == 'n') i++;
      continue;  // "\/" is how some writers put a slash
    }
    int value = base64_value(c);
    if (value < 0) throw failed(mbu::text("the value of '%s' is no base64", key.c_str()));
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (++count % 4 != 1) decoded.push_back(static_cast<uint8_t>(bits >> (6 - 2 * ((count - 1) % 4))));
  }
  return decoded;
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
  cv::Mat planes;
  cv::cvtColor(bgr(cv::Rect(0, 0, width, height)), planes, cv::COLOR_BGR2YUV_I420);
  mbu::Output output(host, call, static_cast<uint64_t>(width) * height * 3 / 2);
  uint8_t *to = output.data();
  size_t luma = static_cast<size_t>(width) * height;
  std::memcpy(to, planes.data, luma);
  const uint8_t *u = planes.data + luma, *v = u + luma / 4;
  for (size_t at = 0; at < luma / 4; at++) {
    to[luma + 2 * at] = u[at];
    to[luma + 2 * at + 1] = v[at];
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
  cv::Mat bgr;
  try {
    bgr = cv::imdecode(raw, cv::IMREAD_COLOR);
  } catch (const cv::Exception &) {
    throw failed("the data is damaged or no image");
  }
  if (bgr.empty()) throw failed("the data is damaged or no image");
  if (state.format == Format::kNv12) {
    push_nv12(host, call, bgr);
    return;
  }
  mbu::Output output(host, call, static_cast<uint64_t>(bgr.rows) * bgr.cols * 3);
  cv::Mat to(bgr.rows, bgr.cols, CV_8UC3, output.data());
  if (state.format == Format::kRgb) {
    cv::cvtColor(bgr, to, cv::COLOR_BGR2RGB);
  } else {
    bgr.copyTo(to);
  }
  push_image(host, call, output, bgr.cols, bgr.rows, state.format);
}

void decode_jpeg(const mb_host *host, mb_call *call, const State &state, const Bytes &bytes) {
  tjhandle handle = decompressor();
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (handle == nullptr ||
      tjDecompressHeader3(handle, bytes.data, bytes.size, &width, &height, &subsampling, &colours) != 0) {
    throw failed(
        mbu::text("the JPEG header is damaged: %s", handle != nullptr ? tjGetErrorStr2(handle) : "no decoder"));
  }
  check_size(state, width, height);
  bool plain = colours == TJCS_YCbCr || colours == TJCS_GRAY || colours == TJCS_RGB;
  if (!plain || state.format == Format::kNv12 || exif_orientation(bytes) != 1) {
    decode_other(host, call, state, bytes);
    return;
  }
  mbu::Output output(host, call, static_cast<uint64_t>(width) * height * 3);
  int pixel = state.format == Format::kRgb ? TJPF_RGB : TJPF_BGR;
  // A warning (such as data that ends early) still gives an image, as it does with OpenCV.
  if (tjDecompress2(handle, bytes.data, bytes.size, output.data(), width, 0, height, pixel, 0) != 0 &&
      tjGetErrorCode(handle) == TJERR_FATAL) {
    throw failed(mbu::text("the JPEG is damaged: %s", tjGetErrorStr2(handle)));
  }
  push_image(host, call, output, width, height, state.format);
}

int32_t process(const mb_host *host, void *opaque, mb_call *call) {
  const State &state = *static_cast<State *>(opaque);
  return mbu::each(host, call, "ImageDecoder", [&](const mb_buffer *input) {
    Bytes bytes{static_cast<const uint8_t *>(host->buffer_data(input)), host->buffer_size(input)};
    if (bytes.size == 0) throw failed("there is no data");
    std::vector<uint8_t> decoded;
    if (!state.key.empty()) {
      decoded = from_json(bytes, state.key);
      bytes = {decoded.data(), decoded.size()};
      if (bytes.size == 0) throw failed("there is no data");
    }
    if (bytes.size > INT32_MAX) throw failed("the data is too large");
    if (is_jpeg(bytes)) {
      decode_jpeg(host, call, state, bytes);
    } else {
      check_other(state, bytes);
      decode_other(host, call, state, bytes);
    }
  });
}

const mb_port inputs[] = {{"in_encoded_image", "buff", nullptr}};
const mb_port outputs[] = {{"out_image", "image", nullptr}};
const mb_option options[] = {
    {"pix_fmt", "string", "bgr", 0, "format of the result", "bgr|rgb|nv12"},
    {"max_pixels", "int", "100000000", 0, "largest image that is decoded, width x height", nullptr},
    {"key", "string", "", 0, "the input is JSON and holds the image in base64 under this key", nullptr},
};
const mb_unit unit = {sizeof(mb_unit),
                      MB_UNIT_ELEMENTWISE,
                      "image_decoder",
                      "cpu",
                      "1.0.0",
                      "Decodes JPEG, PNG and other images.",
                      "Image",
                      inputs,
                      1,
                      outputs,
                      1,
                      options,
                      3,
                      0,
                      0,
                      open,
                      mbu::close_state<State>,
                      process,
                      nullptr,
                      nullptr};

}  // namespace

MBU_PLUGIN(unit)
