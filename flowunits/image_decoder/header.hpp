// What the first bytes of an encoded image claim, read before anything is allocated. Every offset is checked.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

namespace image_header {

struct Bytes {
  const uint8_t *data;
  uint64_t size;

  bool starts_with(const char *magic, uint64_t count) const {
    return size >= count && std::memcmp(data, magic, count) == 0;
  }
  // Numbers beyond the end read as 0, so that a header that was cut off claims an impossible size.
  uint32_t byte(uint64_t at) const { return at < size ? data[at] : 0; }
  uint32_t big16(uint64_t at) const { return byte(at) << 8 | byte(at + 1); }
  uint32_t big32(uint64_t at) const { return big16(at) << 16 | big16(at + 2); }
  uint32_t little16(uint64_t at) const { return byte(at + 1) << 8 | byte(at); }
  uint32_t little32(uint64_t at) const { return little16(at + 2) << 16 | little16(at); }
};

struct Size {
  int64_t width, height;
};

// ---- JPEG ------------------------------------------------------------------------------------------------

struct Jpeg {
  Size size = {0, 0};
  uint32_t orientation = 1;    // EXIF
  bool huffman = true;         // not arithmetic coding
  uint64_t scan = 0;           // where the first scan's header begins; 0 = there is none
  bool ends_properly = false;  // the end marker is there: the data was not cut off
};

inline bool is_jpeg(const Bytes &bytes) { return bytes.starts_with("\xff\xd8\xff", 3); }

// The orientation in an EXIF block (a small TIFF file), 1 when there is none.
inline uint32_t exif_orientation(const Bytes &tiff) {
  bool little = tiff.byte(0) == 'I';
  auto u16 = [&](uint64_t at) { return little ? tiff.little16(at) : tiff.big16(at); };
  uint64_t directory = little ? tiff.little32(4) : tiff.big32(4);
  uint32_t entries = u16(directory);
  for (uint32_t entry = 0; entry < entries; entry++) {
    uint64_t place = directory + 2 + 12ull * entry;
    if (place + 12 > tiff.size) return 1;
    if (u16(place) == 0x0112) return u16(place + 8);
  }
  return 1;
}

// Walks the markers up to the first scan.
inline Jpeg read_jpeg(const Bytes &bytes) {
  Jpeg jpeg;
  uint64_t at = 2;
  while (at + 4 <= bytes.size) {
    if (bytes.data[at] != 0xff) {  // decoders skip what stands between markers
      at++;
      continue;
    }
    uint32_t marker = bytes.data[at + 1];
    if (marker == 0xff || marker == 0 || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {  // without a body
      at += marker == 0xff ? 1 : 2;
      continue;
    }
    if (marker == 0xd9) break;
    if (marker == 0xda) {
      jpeg.scan = at;
      break;
    }
    uint64_t length = bytes.big16(at + 2);
    if (length < 2 || length > bytes.size - at - 2) break;
    bool is_frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (is_frame && length >= 8) {
      jpeg.size = {bytes.big16(at + 7), bytes.big16(at + 5)};
      jpeg.huffman = marker < 0xc8;
    } else if (marker == 0xe1 && length >= 16 && std::memcmp(bytes.data + at + 4, "Exif\0\0", 6) == 0) {
      jpeg.orientation = exif_orientation({bytes.data + at + 10, length - 8});
    }
    at += 2 + length;
  }
  for (uint64_t end = bytes.size; jpeg.scan != 0 && end >= jpeg.scan + 2; end--) {
    if (bytes.data[end - 2] == 0xff && bytes.data[end - 1] == 0xd9) {
      jpeg.ends_properly = true;
      break;
    }
  }
  return jpeg;
}

// ---- the other formats -------------------------------------------------------------------------------------

inline Size bmp_size(const Bytes &bytes) {
  if (bytes.little32(14) == 12) return {bytes.little16(18), bytes.little16(20)};  // the oldest form
  auto height = static_cast<int32_t>(bytes.little32(22));                         // negative: top row first
  return {static_cast<int32_t>(bytes.little32(18)), height < 0 ? -static_cast<int64_t>(height) : height};
}

inline Size webp_size(const Bytes &bytes) {
  std::string kind(reinterpret_cast<const char *>(bytes.data) + 12, 4);
  if (kind == "VP8X") {
    return {1 + static_cast<int64_t>(bytes.little32(24) & 0xffffff),
            1 + static_cast<int64_t>(bytes.little32(27) & 0xffffff)};
  }
  if (kind == "VP8L") {
    uint32_t bits = bytes.little32(21);
    return {1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)};
  }
  return {bytes.little16(26) & 0x3fff, bytes.little16(28) & 0x3fff};
}

// The first directory of a TIFF file, whose image is the one that is decoded.
inline Size tiff_size(const Bytes &bytes) {
  bool little = bytes.byte(0) == 'I';
  auto u16 = [&](uint64_t at) { return little ? bytes.little16(at) : bytes.big16(at); };
  auto u32 = [&](uint64_t at) { return little ? bytes.little32(at) : bytes.big32(at); };
  uint64_t directory = u32(4);
  Size size = {0, 0};
  uint32_t entries = u16(directory);
  for (uint32_t entry = 0; entry < entries; entry++) {
    uint64_t place = directory + 2 + 12ull * entry;
    if (place + 12 > bytes.size) break;
    uint32_t value = u16(place + 2) == 3 ? u16(place + 8) : u32(place + 8);  // SHORT or LONG
    if (u16(place) == 256) size.width = value;
    if (u16(place) == 257) size.height = value;
  }
  return size;
}

// The codestream's SIZ marker; in a .jp2 file the codestream lies behind the boxes.
inline Size jpeg2000_size(const Bytes &bytes) {
  for (uint64_t at = 0; at + 24 <= bytes.size; at++) {
    if (std::memcmp(bytes.data + at, "\xff\x4f\xff\x51", 4) == 0) {
      return {static_cast<int64_t>(bytes.big32(at + 8)) - bytes.big32(at + 16),
              static_cast<int64_t>(bytes.big32(at + 12)) - bytes.big32(at + 20)};
    }
  }
  return {0, 0};
}

// PBM, PGM, PPM, PFM: two numbers as text after the magic, perhaps with comments; PAM: lines WIDTH n, HEIGHT n.
inline Size pnm_size(const Bytes &bytes) {
  std::string head(reinterpret_cast<const char *>(bytes.data), bytes.size < 4096 ? bytes.size : 4096);
  long long width = 0, height = 0;
  if (head[1] == '7') {
    size_t w = head.find("WIDTH "), h = head.find("HEIGHT ");
    if (w == std::string::npos || h == std::string::npos) return {0, 0};
    if (std::sscanf(head.c_str() + w, "WIDTH %9lld", &width) != 1) return {0, 0};
    if (std::sscanf(head.c_str() + h, "HEIGHT %9lld", &height) != 1) return {0, 0};
    return {width, height};
  }
  for (size_t at = head.find('#'); at != std::string::npos; at = head.find('#', at)) {
    size_t end = head.find('\n', at);
    head.erase(at, end == std::string::npos ? end : end - at);
  }
  if (std::sscanf(head.c_str() + 2, "%9lld %9lld", &width, &height) != 2) return {0, 0};
  return {width, height};
}

// Radiance: "-Y height +X width" after an empty line.
inline Size hdr_size(const Bytes &bytes) {
  std::string head(reinterpret_cast<const char *>(bytes.data), bytes.size < 4096 ? bytes.size : 4096);
  size_t at = head.find("\n\n");
  long long width = 0, height = 0;
  if (at == std::string::npos || std::sscanf(head.c_str() + at + 2, "-Y %9lld +X %9lld", &height, &width) != 2) {
    return {0, 0};
  }
  return {width, height};
}

// Nothing for a format that is not read here.
inline std::optional<Size> other_size(const Bytes &bytes) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n", 8)) return Size{bytes.big32(16), bytes.big32(20)};
  if (bytes.starts_with("BM", 2)) return bmp_size(bytes);
  if (bytes.size >= 30 && bytes.starts_with("RIFF", 4) && std::memcmp(bytes.data + 8, "WEBP", 4) == 0) {
    return webp_size(bytes);
  }
  if (bytes.starts_with("II*\0", 4) || bytes.starts_with("MM\0*", 4)) return tiff_size(bytes);
  if (bytes.starts_with("\xff\x4f\xff\x51", 4) || bytes.starts_with("\0\0\0\x0cjP  ", 8)) return jpeg2000_size(bytes);
  if (bytes.starts_with("\x59\xa6\x6a\x95", 4)) return Size{bytes.big32(4), bytes.big32(8)};  // Sun raster
  if (bytes.size > 3 && bytes.data[0] == 'P' && std::strchr("1234567Ff", bytes.data[1]) != nullptr &&
      std::strchr(" \t\r\n", bytes.data[2]) != nullptr && bytes.data[1] != 0 && bytes.data[2] != 0) {
    return pnm_size(bytes);
  }
  if (bytes.starts_with("#?RADIANCE", 10) || bytes.starts_with("#?RGBE", 6)) return hdr_size(bytes);
  return std::nullopt;
}

}  // namespace image_header
