// What the native image units share: access to the host without repeating its checks, and image meta.
// A C++ exception must not cross the plugin boundary: open_state() and each() turn it into an error.
#pragma once

#include <modelbox/plugin.h>

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace mbu {

// An error of one buffer: the unit answers it with an error buffer `<Unit>.<Reason>`.
struct BufferError : std::runtime_error {
  explicit BufferError(const std::string &message, std::string reason_word = "InvalidInput")
      : std::runtime_error(message), reason(std::move(reason_word)) {}
  std::string reason;
};

// An option that cannot be used; open() fails with it.
struct OptionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
inline std::string text(const char *format, ...) {
  char made[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(made, sizeof made, format, arguments);
  va_end(arguments);
  return made;
}

// Options of a node while it is opened.
class Options {
 public:
  Options(const mb_host *host, const mb_config *config) : host_(host), config_(config) {}

  bool has(const char *key) const { return host_->config_has(config_, key) != 0; }

  std::string word(const char *key, const char *fallback) const { return host_->config_string(config_, key, fallback); }

  // A whole number within [least, most].
  int64_t number(const char *key, int64_t fallback, int64_t least, int64_t most) const {
    int64_t value = 0;
    if (host_->config_int(config_, key, fallback, &value) != 0 || value < least || value > most) {
      throw OptionError(text("option %s = \"%s\" must be a whole number from %lld to %lld", key,
                             host_->config_string(config_, key, ""), static_cast<long long>(least),
                             static_cast<long long>(most)));
    }
    return value;
  }

  bool flag(const char *key, bool fallback) const {
    int32_t value = 0;
    if (host_->config_bool(config_, key, fallback ? 1 : 0, &value) != 0) {
      throw OptionError(text("option %s = \"%s\" must be true or false", key, host_->config_string(config_, key, "")));
    }
    return value != 0;
  }

  // Exactly `count` numbers separated by commas; required when `fallback` is null.
  std::vector<double> numbers(const char *key, uint32_t count, const double *fallback = nullptr) const {
    if (!has(key)) {
      if (fallback == nullptr) throw OptionError(text("option %s is missing", key));
      return std::vector<double>(fallback, fallback + count);
    }
    std::vector<double> values(count + 1);
    uint32_t got = 0;
    int32_t status = host_->config_doubles(config_, key, values.data(), count + 1, &got);
    bool finite = true;
    for (uint32_t at = 0; at < got; at++) finite = finite && std::isfinite(values[at]);
    if (status != 0 || got != count || !finite) {
      throw OptionError(text("option %s = \"%s\" must be %u finite numbers separated by commas", key,
                             host_->config_string(config_, key, ""), count));
    }
    values.resize(count);
    return values;
  }

 private:
  const mb_host *host_;
  const mb_config *config_;
};

// Runs open()'s body and stores its state.
template <typename State, typename Body>
int32_t open_state(const mb_host *host, const mb_config *config, void **state, Body body) {
  try {
    *state = body(Options(host, config));
    return 0;
  } catch (const std::exception &error) {
    host->set_error(nullptr, error.what());
    return -MB_BADCONF;
  } catch (...) {
    host->set_error(nullptr, "unknown exception");
    return -MB_FAULT;
  }
}

template <typename State>
void close_state(const mb_host *, void *state) {
  delete static_cast<State *>(state);
}

// An output buffer until it is pushed: given back if something throws first.
class Output {
 public:
  Output(const mb_host *host, mb_call *call, uint64_t size) : host_(host), buffer_(host->buffer_new(call, size)) {
    if (buffer_ == nullptr) {
      throw BufferError(text("no memory for a result of %llu bytes: the limits are those of [memory]",
                             static_cast<unsigned long long>(size)),
                        "OutOfMemory");
    }
  }
  Output(const Output &) = delete;
  Output &operator=(const Output &) = delete;
  ~Output() { host_->buffer_unref(buffer_); }

  template <typename T = uint8_t>
  T *data() {
    return static_cast<T *>(host_->buffer_writable(buffer_));
  }
  mb_buffer *get() { return buffer_; }
  void push(mb_call *call, uint32_t port = 0) {
    mb_buffer *buffer = buffer_;
    buffer_ = nullptr;
    host_->push(call, port, buffer);
  }

 private:
  const mb_host *host_;
  mb_buffer *buffer_;
};

// Calls `body(buffer)` for every input of port 0. What it throws becomes an error buffer in this one's place: one bad
// buffer never spoils the others of the call, which may belong to other sessions.
template <typename Body>
int32_t each(const mb_host *host, mb_call *call, const char *unit, Body body) {
  uint32_t count = 0;
  mb_buffer *const *inputs = host->inputs(call, 0, &count);
  auto fail = [&](const char *reason, const char *message) {
    char code[96];
    snprintf(code, sizeof code, "%s.%s", unit, reason);
    return host->push_error(call, 0, code, message);
  };
  for (uint32_t at = 0; at < count; at++) {
    try {
      body(inputs[at]);
    } catch (const BufferError &error) {
      fail(error.reason.c_str(), error.what());
    } catch (const std::exception &error) {
      fail("ProcessError", error.what());
    } catch (...) {
      fail("ProcessError", "unknown exception");
    }
  }
  return 0;
}

// What the meta of a packed image says: rows of `width` pixels with `channels` elements of `element` bytes.
struct Image {
  int64_t width = 0, height = 0, channels = 0, stride = 0;  // stride in bytes
  int32_t dtype = MB_DTYPE_UINT8;
  std::string pix_fmt;
  const uint8_t *data = nullptr;

  uint64_t element() const { return dtype == MB_DTYPE_FLOAT ? 4 : 1; }
};

inline int64_t meta_int(const mb_host *host, const mb_buffer *buffer, const char *key) {
  int64_t value = 0;
  if (host->meta_get_int(buffer, key, &value) != 0)
    throw BufferError(text("the buffer has no meta '%s' (a number)", key));
  return value;
}

inline std::string meta_word(const mb_host *host, const mb_buffer *buffer, const char *key, const char *fallback) {
  const char *value = nullptr;
  return host->meta_get_string(buffer, key, &value, nullptr) == 0 ? value : fallback;
}

inline int32_t meta_dtype(const mb_host *host, const mb_buffer *buffer, int32_t fallback) {
  int32_t value = fallback;
  int64_t number = 0;
  if (host->meta_get_dtype(buffer, "type", &value) == 0) return value;
  return host->meta_get_int(buffer, "type", &number) == 0 ? static_cast<int32_t>(number) : fallback;
}

// Reads and checks a packed (hwc) image of uint8 or float.
inline Image read_image(const mb_host *host, const mb_buffer *buffer) {
  Image image;
  image.width = meta_int(host, buffer, "width");
  image.height = meta_int(host, buffer, "height");
  image.pix_fmt = meta_word(host, buffer, "pix_fmt", "");
  image.dtype = meta_dtype(host, buffer, MB_DTYPE_UINT8);
  if (image.dtype != MB_DTYPE_UINT8 && image.dtype != MB_DTYPE_FLOAT) {
    throw BufferError("the image must be of type UINT8 or FLOAT");
  }
  if (meta_word(host, buffer, "layout", "hwc") != "hwc") throw BufferError("the image must have layout hwc");
  if (image.pix_fmt == "rgb" || image.pix_fmt == "bgr") {
    image.channels = 3;
  } else if (image.pix_fmt == "gray") {
    image.channels = 1;
  } else if (image.pix_fmt.empty()) {
    image.channels = meta_int(host, buffer, "channel");
  } else {
    throw BufferError(text("pix_fmt '%s' is not supported here, only rgb, bgr and gray", image.pix_fmt.c_str()));
  }
  if (image.width < 1 || image.height < 1 || image.width > 65536 || image.height > 65536 || image.channels < 1 ||
      image.channels > 4) {
    throw BufferError(text("an image of %lld x %lld x %lld is not possible", static_cast<long long>(image.width),
                           static_cast<long long>(image.height), static_cast<long long>(image.channels)));
  }
  int64_t row = image.width * image.channels * static_cast<int64_t>(image.element());
  int64_t size = static_cast<int64_t>(host->buffer_size(buffer));
  image.stride = row;
  int64_t stride = 0;  // a row's bytes; what is too small (some units write pixels) or does not fit is not believed
  if (host->meta_get_int(buffer, "width_stride", &stride) == 0 && stride > row && stride <= size &&
      stride * (image.height - 1) + row <= size) {
    image.stride = stride;
  }
  int64_t needed = image.stride * (image.height - 1) + row;
  if (needed > size) {
    throw BufferError(text("the buffer has %lld bytes, an image of %lld x %lld x %lld needs %lld",
                           static_cast<long long>(size), static_cast<long long>(image.width),
                           static_cast<long long>(image.height), static_cast<long long>(image.channels),
                           static_cast<long long>(needed)));
  }
  image.data = static_cast<const uint8_t *>(host->buffer_data(buffer));
  return image;
}

// Writes the meta set of an image without padding between its rows.
inline void write_image_meta(const mb_host *host, mb_buffer *buffer, int64_t width, int64_t height, int64_t channels,
                             const char *pix_fmt, int32_t dtype) {
  int64_t element = dtype == MB_DTYPE_FLOAT ? 4 : 1;
  const int64_t shape[3] = {height, width, channels};
  host->meta_set_int(buffer, "width", width);
  host->meta_set_int(buffer, "height", height);
  host->meta_set_int(buffer, "width_stride", width * channels * element);
  host->meta_set_int(buffer, "height_stride", height);
  host->meta_set_int(buffer, "channel", channels);
  host->meta_set_string(buffer, "pix_fmt", pix_fmt);
  host->meta_set_string(buffer, "layout", "hwc");
  host->meta_set_ints(buffer, "shape", shape, 3);
  host->meta_set_dtype(buffer, "type", dtype);
  host->buffer_set_kind(buffer, MB_KIND_IMAGE);
}

// A `normal` unit for images on the CPU, whose output i belongs to input i. State is what open() makes.
template <typename State, uint32_t kInputs, uint32_t kOutputs, uint32_t kOptions>
constexpr mb_unit image_unit(const char *name, const char *description, const mb_port (&inputs)[kInputs],
                             const mb_port (&outputs)[kOutputs], const mb_option (&options)[kOptions],
                             decltype(mb_unit::open) open, decltype(mb_unit::process) process) {
  mb_unit unit{};
  unit.struct_size = sizeof(mb_unit);
  unit.flags = MB_UNIT_ELEMENTWISE;
  unit.name = name;
  unit.device = "cpu";
  unit.version = "1.0.0";
  unit.description = description;
  unit.group = "Image";
  unit.inputs = inputs;
  unit.input_count = kInputs;
  unit.outputs = outputs;
  unit.output_count = kOutputs;
  unit.options = options;
  unit.option_count = kOptions;
  unit.open = open;
  unit.close = close_state<State>;
  unit.process = process;
  return unit;
}

}  // namespace mbu

// Exports one unit as a plugin.
#define MBU_PLUGIN(unit)                                                                                   \
  extern "C" MB_EXPORT const mb_plugin *mb_plugin_entry_v1(void) {                                         \
    static const mb_unit *const units[] = {&(unit)};                                                       \
    static const mb_plugin plugin = {                                                                      \
        sizeof(mb_plugin), MB_ABI_MAJOR, MB_ABI_MINOR, (unit).name, (unit).version, units, 1, 0, nullptr}; \
    return &plugin;                                                                                        \
  }
