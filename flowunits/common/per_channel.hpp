// Per-channel arithmetic on tensors, uint8 or float in, float out: what mean and normalize have in common.
#pragma once

#include <functional>
#include <numeric>

#include "unit.hpp"

namespace mbu {

struct Channels {
  float values[3];
};

// Where the three channels lie: hwc (interleaved) or planar. Meta layout says so; without it, the place of the 3.
inline bool is_packed(const mb_host *host, const mb_buffer *buffer, const int64_t *shape, uint32_t dims) {
  std::string layout = meta_word(host, buffer, "layout", "");
  if (layout == "hwc") return true;
  if (layout == "chw") return false;
  return dims > 0 && shape[dims - 1] == 3 && !(dims >= 3 && shape[dims - 3] == 3);
}

// Four pixels at a time: twelve constants side by side suit the vector unit, three do not.
template <typename In, typename Op>
void packed(const In *__restrict from, float *__restrict to, int64_t pixels, const Channels &c, Op op) {
  float constants[12];
  for (int at = 0; at < 12; at++) constants[at] = c.values[at % 3];
  int64_t count = 3 * pixels, at = 0;
  for (; at + 12 <= count; at += 12) {
    for (int lane = 0; lane < 12; lane++) to[at + lane] = op(static_cast<float>(from[at + lane]), constants[lane]);
  }
  for (int lane = 0; at < count; at++, lane++) to[at] = op(static_cast<float>(from[at]), constants[lane]);
}

template <typename In, typename Op>
void planar(const In *__restrict from, float *__restrict to, int64_t pixels, const Channels &c, Op op) {
  for (int channel = 0; channel < 3; channel++) {
    float value = c.values[channel];
    const In *in = from + channel * pixels;
    float *out = to + channel * pixels;
    for (int64_t at = 0; at < pixels; at++) out[at] = op(static_cast<float>(in[at]), value);
  }
}

// Applies `op(element, channel value)`; `shape` may begin with a batch of images.
template <typename Op>
int32_t per_channel(const mb_host *host, mb_call *call, const char *unit, const Channels &channels, Op op) {
  return each(host, call, unit, [&](mb_buffer *input) {
    const int64_t *shape = nullptr;
    uint32_t dims = 0;
    if (host->meta_get_ints(input, "shape", &shape, &dims) != 0) throw BufferError("the buffer has no meta 'shape'");
    int32_t dtype = meta_dtype(host, input, MB_DTYPE_INVALID);
    if (dtype == MB_DTYPE_INVALID) throw BufferError("the buffer has no meta 'type'");
    if (dtype != MB_DTYPE_UINT8 && dtype != MB_DTYPE_FLOAT)
      throw BufferError("the data must be of type UINT8 or FLOAT");
    uint64_t element = dtype == MB_DTYPE_FLOAT ? 4 : 1;
    uint64_t total = host->buffer_size(input) / element;
    uint64_t count = 1;
    for (uint32_t at = 0; at < dims; at++) {
      if (shape[at] < 1 || count > total / static_cast<uint64_t>(shape[at]))
        throw BufferError("meta 'shape' does not fit the data");
      count *= static_cast<uint64_t>(shape[at]);
    }
    bool interleaved = is_packed(host, input, shape, dims);
    uint32_t channel_dim = interleaved ? dims - 1 : dims - 3;
    if (dims < 2 || (!interleaved && dims < 3) || shape[channel_dim] != 3 || count != total) {
      throw BufferError("the data must have 3 channels, and as many elements as meta 'shape' says");
    }
    Output output(host, call, count * sizeof(float));
    float *to = output.data<float>();
    const void *from = host->buffer_data(input);
    int64_t pixels = static_cast<int64_t>(count) / 3;
    if (interleaved) {
      dtype == MB_DTYPE_FLOAT ? packed(static_cast<const float *>(from), to, pixels, channels, op)
                              : packed(static_cast<const uint8_t *>(from), to, pixels, channels, op);
    } else {
      int64_t plane = shape[dims - 1] * shape[dims - 2];
      for (int64_t image = 0; image < pixels / plane; image++) {
        int64_t at = image * 3 * plane;
        dtype == MB_DTYPE_FLOAT ? planar(static_cast<const float *>(from) + at, to + at, plane, channels, op)
                                : planar(static_cast<const uint8_t *>(from) + at, to + at, plane, channels, op);
      }
    }
    host->meta_copy(output.get(), input);
    host->meta_set_dtype(output.get(), "type", MB_DTYPE_FLOAT);
    int64_t stride = 0;
    if (element == 1 && host->meta_get_int(output.get(), "width_stride", &stride) == 0) {
      host->meta_set_int(output.get(), "width_stride", stride * 4);
    }
    host->buffer_set_kind(output.get(), host->buffer_kind(input));
    output.push(call);
  });
}

// open() of a unit whose numbers, one per channel, are in the option `key`.
inline int32_t open_channels(const mb_host *host, const mb_config *config, void **state, const char *key) {
  return open_state<Channels>(host, config, state, [key](const Options &options) {
    std::vector<double> values = options.numbers(key, 3);
    return new Channels{{static_cast<float>(values[0]), static_cast<float>(values[1]), static_cast<float>(values[2])}};
  });
}

inline constexpr mb_port kTensorIn[] = {{"in_data", "tensor", nullptr}};
inline constexpr mb_port kTensorOut[] = {{"out_data", "tensor", nullptr}};

}  // namespace mbu
