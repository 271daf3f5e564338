// An image in base64 inside a JSON body: what some clients post.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../common/unit.hpp"

namespace image_json {

// The value of each character; 64: to be skipped, 65: not base64. Both alphabets are read.
constexpr std::array<uint8_t, 256> make_values() {
  std::array<uint8_t, 256> values{};
  for (auto &value : values) value = 65;
  for (int c = 0; c < 26; c++) {
    values['A' + c] = static_cast<uint8_t>(c);
    values['a' + c] = static_cast<uint8_t>(26 + c);
  }
  for (int c = 0; c < 10; c++) values['0' + c] = static_cast<uint8_t>(52 + c);
  values['+'] = values['-'] = 62;
  values['/'] = values['_'] = 63;
  values['='] = values[' '] = values['\t'] = values['\r'] = values['\n'] = 64;
  return values;
}
inline constexpr std::array<uint8_t, 256> kValues = make_values();

// The character that a JSON escape at `at` stands for; moves `at` to its last character.
inline char unescape(std::string_view text, size_t &at) {
  char c = at + 1 < text.size() ? text[++at] : '\0';
  if (c == 'n' || c == 'r' || c == 't') return ' ';
  if (c != 'u') return c;
  unsigned code = 0;  // some writers put = and / so
  for (int digit = 0; digit < 4 && at + 1 < text.size(); digit++) {
    char d = text[++at];
    code = code << 4 | static_cast<unsigned>(d >= 'a' ? d - 'a' + 10 : d >= 'A' ? d - 'A' + 10 : d - '0');
  }
  return code < 128 ? static_cast<char>(code) : '\0';
}

// The string that stands behind `"key" :`, without its quotes.
inline std::string_view find_value(std::string_view body, const std::string &key) {
  const char *spaces = " \t\r\n";
  std::string quoted = '"' + key + '"';
  for (size_t at = body.find(quoted); at != std::string_view::npos; at = body.find(quoted, at + 1)) {
    size_t colon = body.find_first_not_of(spaces, at + quoted.size());
    if (colon == std::string_view::npos || body[colon] != ':') continue;  // a value that reads like the key
    size_t begin = body.find_first_not_of(spaces, colon + 1);
    size_t end = begin != std::string_view::npos && body[begin] == '"' ? body.find('"', begin + 1) : begin;
    if (end == begin) {
      throw mbu::BufferError(mbu::text("the value of '%s' in the JSON body is no string", key.c_str()), "DecodeFailed");
    }
    if (end == std::string_view::npos) break;
    return body.substr(begin + 1, end - begin - 1);
  }
  throw mbu::BufferError(mbu::text("the body is no JSON object with the key '%s'", key.c_str()), "DecodeFailed");
}

// The bytes under `key`. A data: URL prefix is skipped.
inline std::vector<uint8_t> decode(std::string_view body, const std::string &key) {
  std::string_view text = find_value(body, key);
  size_t comma = text.substr(0, 5) == "data:" ? text.substr(0, 200).find(',') : std::string_view::npos;
  if (comma != std::string_view::npos) text.remove_prefix(comma + 1);
  std::vector<uint8_t> bytes(text.size() / 4 * 3 + 3);
  uint8_t *to = bytes.data();
  uint32_t bits = 0, held = 0;
  for (size_t at = 0; at < text.size(); at++) {
    char c = text[at] == '\\' ? unescape(text, at) : text[at];
    uint8_t value = kValues[static_cast<uint8_t>(c)];
    if (value >= 64) {
      if (value == 64) continue;
      throw mbu::BufferError(mbu::text("the value of '%s' in the JSON body is no base64", key.c_str()), "DecodeFailed");
    }
    bits = bits << 6 | value;
    held += 6;
    if (held >= 8) {
      held -= 8;
      *to++ = static_cast<uint8_t>(bits >> held);
    }
  }
  bytes.resize(static_cast<size_t>(to - bytes.data()));
  return bytes;
}

}  // namespace image_json
