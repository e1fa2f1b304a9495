// 128-bit digest of bytes: detects damage, not forgery.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace quietformer {

/// XXH3-128 (xxhash) of everything given to update(), as if it came in one piece.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  void update(std::string_view bytes);
  /// 32 lower-case hexadecimal digits in the canonical order, the same on every machine.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// hex() of bytes that are all there.
std::string digest_hex(std::string_view bytes);

}  // namespace quietformer
