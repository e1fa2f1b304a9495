#include "data/tokenizer/word_cache.h"

#include <functional>

namespace quietformer {
namespace {

constexpr std::size_t kLongestWord = 64;
constexpr std::size_t kFirstSlots = 1 << 10;
constexpr std::size_t kMostWords = 1 << 18;

}  // namespace

std::size_t WordCache::place(std::uint64_t hash, std::string_view word) const {
  std::size_t at = hash & (slots_.size() - 1);
  for (; slots_[at].word_size != 0; at = (at + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[at];
    if (slot.hash == hash && std::string_view(words_).substr(slot.word, slot.word_size) == word)
      break;
  }
  return at;
}

void WordCache::grow() {
  const std::vector<Slot> old = std::move(slots_);
  slots_.assign(old.empty() ? kFirstSlots : 2 * old.size(), {});
  for (const Slot& slot : old)
    if (slot.word_size != 0)
      slots_[place(slot.hash, std::string_view(words_).substr(slot.word, slot.word_size))] = slot;
}

void WordCache::encode(std::string_view word, const Model& model, std::vector<std::int32_t>& ids) {
  if (word.size() > kLongestWord) return model.encode(word, ids);
  if (slots_.empty()) grow();
  const std::uint64_t hash = std::hash<std::string_view>()(word);
  const std::size_t at = place(hash, word);
  if (slots_[at].word_size != 0) {
    const auto begin = ids_.begin() + slots_[at].ids;
    ids.insert(ids.end(), begin, begin + slots_[at].count);
    return;
  }
  const std::size_t before = ids.size();
  model.encode(word, ids);
  if (used_ == kMostWords) return;
  slots_[at] = {hash, static_cast<std::uint32_t>(words_.size()),
                static_cast<std::uint32_t>(word.size()), static_cast<std::uint32_t>(ids_.size()),
                static_cast<std::uint32_t>(ids.size() - before)};
  words_ += word;
  ids_.insert(ids_.end(), ids.begin() + std::ptrdiff_t(before), ids.end());
  if (2 * ++used_ > slots_.size()) grow();
}

}  // namespace quietformer
