#include "data/tokenizer/utf8.h"

namespace quietformer {

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    if (c.valid)
      out.append(text, at, c.bytes);
    else
      append_utf8(c.code, out);
    at += c.bytes;
  }
  return out;
}

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t found; (found = text.find(pattern, at)) != std::string_view::npos;
       at = found + pattern.size())
    out.append(text, at, found - at).append(content);
  return out.append(text, at);
}

}  // namespace quietformer
