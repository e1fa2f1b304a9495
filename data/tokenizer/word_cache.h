// Words that were encoded before.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/model.h"

namespace quietformer {

/// The ids of words of up to 64 bytes, for one text: natural text has each word many times. Grows
/// with the words up to some 20 MB, after which it stays as it is.
class WordCache {
 public:
  /// As model.encode().
  void encode(std::string_view word, const Model& model, std::vector<std::int32_t>& ids);

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t word = 0, word_size = 0;  // in words_; a size of 0 is a free slot
    std::uint32_t ids = 0, count = 0;       // in ids_
  };
  std::size_t place(std::uint64_t hash, std::string_view word) const;
  void grow();

  std::vector<Slot> slots_;  // open addressing, at most half full
  std::size_t used_ = 0;
  std::string words_;
  std::vector<std::int32_t> ids_;
};

}  // namespace quietformer
