// packed_planar_transpose: hwc to chw.
// in_image: packed uint8 or float; out_image: planar, meta layout chw, shape [c, h, w], pix_fmt rgbp or bgrp.
#include "../common/unit.hpp"

namespace {

// Taking every third byte apart needs shuffles that plain x86-64 lacks: the loader picks what the machine has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MBU_BEST_OF_MACHINE __attribute__((target_clones("avx2", "default")))
#else
#define MBU_BEST_OF_MACHINE
#endif

template <typename T>
MBU_BEST_OF_MACHINE void split_row(const T *__restrict in, T *__restrict first, T *__restrict second,
                                   T *__restrict third, int64_t width) {
  for (int64_t at = 0; at < width; at++) {
    first[at] = in[3 * at];
    second[at] = in[3 * at + 1];
    third[at] = in[3 * at + 2];
  }
}

template <typename T>
void transpose3(const uint8_t *from, T *to, const mbu::Image &image) {
  int64_t plane = image.width * image.height;
  for (int64_t row = 0; row < image.height; row++) {
    const T *in = reinterpret_cast<const T *>(from + row * image.stride);
    T *first = to + row * image.width;
    split_row(in, first, first + plane, first + 2 * plane, image.width);
  }
}

template <typename T>
void transpose(const uint8_t *from, T *to, const mbu::Image &image) {
  if (image.channels == 3) {
    transpose3(from, to, image);
    return;
  }
  int64_t plane = image.width * image.height;
  for (int64_t row = 0; row < image.height; row++) {
    const T *in = reinterpret_cast<const T *>(from + row * image.stride);
    for (int64_t at = 0; at < image.width; at++) {
      for (int64_t channel = 0; channel < image.channels; channel++) {
        to[channel * plane + row * image.width + at] = in[at * image.channels + channel];
      }
    }
  }
}

int32_t process(const mb_host *host, void *, mb_call *call) {
  return mbu::each(host, call, "PackedPlanarTranspose", [&](const mb_buffer *input) {
    mbu::Image image = mbu::read_image(host, input);
    uint64_t count = static_cast<uint64_t>(image.width) * image.height * image.channels;
    mbu::Output output(host, call, count * image.element());
    if (image.dtype == MB_DTYPE_FLOAT) {
      transpose(image.data, output.data<float>(), image);
    } else {
      transpose(image.data, output.data<uint8_t>(), image);
    }
    host->meta_copy(output.get(), input);
    const int64_t shape[3] = {image.channels, image.height, image.width};
    host->meta_set_ints(output.get(), "shape", shape, 3);
    host->meta_set_string(output.get(), "layout", "chw");
    host->meta_set_int(output.get(), "channel", image.channels);
    host->meta_set_int(output.get(), "width_stride", image.width * static_cast<int64_t>(image.element()));
    host->meta_set_int(output.get(), "height_stride", image.height);
    host->meta_set_dtype(output.get(), "type", image.dtype);
    if (image.pix_fmt == "rgb" || image.pix_fmt == "bgr") {
      host->meta_set_string(output.get(), "pix_fmt", (image.pix_fmt + "p").c_str());
    }
    host->buffer_set_kind(output.get(), MB_KIND_IMAGE);
    output.push(call);
  });
}

const mb_port inputs[] = {{"in_image", "image", nullptr}};
const mb_port outputs[] = {{"out_image", "image", nullptr}};
const mb_unit unit = {sizeof(mb_unit),
                      MB_UNIT_ELEMENTWISE,
                      "packed_planar_transpose",
                      "cpu",
                      "1.0.0",
                      "Turns interleaved pixels into planes (hwc to chw).",
                      "Image",
                      inputs,
                      1,
                      outputs,
                      1,
                      nullptr,
                      0,
                      0,
                      0,
                      nullptr,
                      nullptr,
                      process,
                      nullptr,
                      nullptr};

}  // namespace

MBU_PLUGIN(unit)
