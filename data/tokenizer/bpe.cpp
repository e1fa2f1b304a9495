#include <fmt/format.h>

#include <array>
#include <bit>
#include <limits>
#include <queue>
#include <string>

#include "core/check.h"
#include "core/log.h"
#include "data/tokenizer/model.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

constexpr std::uint32_t kNoMerge = std::numeric_limits<std::uint32_t>::max();

struct Merge {
  std::uint32_t rank = kNoMerge;  // 0 is the strongest
  std::int32_t id = -1;           // of the merged token
};

/// Pairs of ids to merges: open addressing, at most half full.
class MergeTable {
 public:
  explicit MergeTable(std::size_t merges)
      : slots_(std::bit_ceil(2 * merges + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  /// The later of equal pairs counts, as in `tokenizers`.
  void set(std::int32_t left, std::int32_t right, Merge merge) {
    Slot& slot = slots_[find(key(left, right))];
    slot = {key(left, right), merge};
  }
  Merge get(std::int32_t left, std::int32_t right) const {
    return slots_[find(key(left, right))].merge;
  }

 private:
  static constexpr std::uint64_t kFree = std::numeric_limits<std::uint64_t>::max();
  struct Slot {
    std::uint64_t key = kFree;
    Merge merge;
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return std::uint64_t(std::uint32_t(left)) << 32 | std::uint32_t(right);
  }
  std::size_t find(std::uint64_t key) const {
    std::size_t at = (key ^ key >> 29) * 0x9E3779B97F4A7C15u >> shift_;
    while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
  int shift_;
};

struct Symbol {
  std::int32_t id;
  Merge merge = {};  // with the next one
};

class Bpe final : public Model {
 public:
  Bpe(const ModelSpec& spec, const Vocabulary& vocabulary, bool byte_level)
      : vocabulary_(vocabulary),
        byte_level_(byte_level),
        prefix_(spec.prefix),
        suffix_(spec.suffix),
        fuse_unknown_(spec.fuse_unknown),
        byte_fallback_(spec.byte_fallback),
        ignore_merges_(spec.ignore_merges),
        table_(spec.merges.size()) {
    if (spec.unknown) unknown_ = require(*spec.unknown, spec.where + ": the unknown token ");
    if (byte_level && byte_fallback_)
      throw InputError(spec.where + ": byte_fallback together with ByteLevel is not supported");
    add_merges(spec);
    for (int place = 0; place < 4; ++place)
      for (int byte = 0; byte < 256; ++byte) {
        std::string text;
        append_utf8(byte_level ? character_of_byte(static_cast<std::uint8_t>(byte))
                               : static_cast<char32_t>(byte),
                    text);
        single_[std::size_t(place)][std::size_t(byte)] =
            vocabulary.find(dressed(text, (place & 1) != 0, (place & 2) != 0)).value_or(-1);
      }
  }

  void encode(std::string_view word, std::vector<std::int32_t>& ids) const override {
    if (ignore_merges_)
      if (const auto id = whole(word)) return ids.push_back(*id);
    thread_local std::vector<Symbol> symbols;
    symbols.clear();
    begin(word, symbols);
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) look_up(symbols, i, i + 1);
    constexpr std::size_t kShort = 32;  // below, looking at all pairs is quicker than a queue
    symbols.size() <= kShort ? merge_short(symbols) : merge_long(symbols);
    for (const Symbol& symbol : symbols)
      if (symbol.id >= 0) ids.push_back(symbol.id);
  }

 private:
  std::int32_t require(const std::string& token, const std::string& before) const {
    if (const auto id = vocabulary_.find(token)) return *id;
    throw InputError(fmt::format("{}'{}' is not in the vocabulary", before, one_line(token, 60)));
  }

  void add_merges(const ModelSpec& spec) {
    for (std::size_t i = 0; i < spec.merges.size(); ++i) {
      const auto& [left, right] = spec.merges[i];
      const std::string where = fmt::format("{}[{}]: '{}' and '{}': ", spec.merges_where, i,
                                            one_line(left, 60), one_line(right, 60));
      const std::int32_t a = require(left, where), b = require(right, where);
      if (!right.starts_with(prefix_))
        throw InputError(
            fmt::format("{}the second does not begin with '{}'", where, one_line(prefix_, 60)));
      const std::int32_t merged = require(left + right.substr(prefix_.size()), where);
      table_.set(a, b, {static_cast<std::uint32_t>(i), merged});
    }
  }

  std::string dressed(std::string_view text, bool first, bool last) const {
    return fmt::format("{}{}{}", first ? "" : prefix_, text, last ? suffix_ : "");
  }

  std::optional<std::int32_t> whole(std::string_view word) const {
    if (!byte_level_) return vocabulary_.find(word);
    std::string text;
    for (const char c : word) append_utf8(character_of_byte(static_cast<std::uint8_t>(c)), text);
    return vocabulary_.find(text);
  }

  // Characters that the vocabulary lacks become their bytes, the unknown token or nothing. An
  // unknown token waits for the next known one: several may become one.
  void begin(std::string_view word, std::vector<Symbol>& symbols) const {
    bool waiting = false;
    const auto flush = [&] {
      if (waiting) symbols.push_back({unknown_});
      waiting = false;
    };
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t bytes = byte_level_ ? 1 : character_at(word, at).bytes;
      const std::string_view c = word.substr(at, bytes);
      const bool first = at == 0, last = at + bytes == word.size();
      at += bytes;
      const std::int32_t id = initial(c, first, last);
      if (id >= 0) {
        flush();
        symbols.push_back({id});
      } else if (!(byte_fallback_ && fall_back(dressed(c, first, last), symbols)) &&
                 unknown_ >= 0) {
        if (!fuse_unknown_) flush();
        waiting = true;
      }
    }
    flush();
  }

  std::int32_t initial(std::string_view c, bool first, bool last) const {
    const auto byte = static_cast<unsigned char>(c.front());
    if (byte_level_ || byte < 0x80) return single_[std::size_t(first + 2 * last)][byte];
    if (prefix_.empty() && suffix_.empty()) return vocabulary_.find(c).value_or(-1);
    return vocabulary_.find(dressed(c, first, last)).value_or(-1);
  }

  bool fall_back(std::string_view text, std::vector<Symbol>& symbols) const {
    const std::size_t before = symbols.size();
    for (const char c : text) {
      const auto id = vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c)));
      if (!id) {
        symbols.resize(before, {-1});
        return false;
      }
      symbols.push_back({*id});
    }
    return true;
  }

  void look_up(std::vector<Symbol>& symbols, std::size_t left, std::size_t right) const {
    symbols[left].merge = table_.get(symbols[left].id, symbols[right].id);
  }

  void merge_short(std::vector<Symbol>& symbols) const {
    while (symbols.size() > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < symbols.size(); ++i)
        if (symbols[i].merge.rank < symbols[best].merge.rank) best = i;
      if (symbols[best].merge.rank == kNoMerge) return;
      symbols[best] = {symbols[best].merge.id};
      symbols.erase(symbols.begin() + std::ptrdiff_t(best) + 1);
      if (best + 1 < symbols.size()) look_up(symbols, best, best + 1);
      if (best > 0) look_up(symbols, best - 1, best);
    }
  }

  // Symbols stay where they are; the ids of those that were merged into others become -1.
  void merge_long(std::vector<Symbol>& symbols) const {
    struct Candidate {
      std::uint32_t rank;
      std::uint32_t at;
      bool operator>(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : at > other.at;
      }
    };
    const auto count = static_cast<std::uint32_t>(symbols.size());
    std::vector<std::uint32_t> next(count), previous(count);
    std::vector<Candidate> initial;
    for (std::uint32_t i = 0; i < count; ++i) {
      next[i] = i + 1;
      previous[i] = i - 1;  // the first has none and is asked for none
      if (symbols[i].merge.rank != kNoMerge) initial.push_back({symbols[i].merge.rank, i});
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
        std::greater<>(), std::move(initial));
    const auto renew = [&](std::uint32_t left, std::uint32_t right) {
      look_up(symbols, left, right);
      if (symbols[left].merge.rank != kNoMerge) queue.push({symbols[left].merge.rank, left});
    };
    while (!queue.empty()) {
      const Candidate top = queue.top();
      queue.pop();
      Symbol& left = symbols[top.at];
      if (left.id < 0 || left.merge.rank != top.rank) continue;  // merged meanwhile
      const std::uint32_t gone = next[top.at];
      left = {left.merge.id};
      symbols[gone] = {-1};
      next[top.at] = next[gone];
      if (next[gone] < count) previous[next[gone]] = top.at;
      if (next[top.at] < count) renew(top.at, next[top.at]);
      if (top.at > 0) renew(previous[top.at], top.at);
    }
  }

  const Vocabulary& vocabulary_;
  bool byte_level_;
  std::string prefix_, suffix_;
  bool fuse_unknown_, byte_fallback_, ignore_merges_;
  std::int32_t unknown_ = -1;
  MergeTable table_;
  // Of bytes, or of ASCII characters: inside a word, first, last, and all of it.
  std::array<std::array<std::int32_t, 256>, 4> single_;
};

}  // namespace

std::unique_ptr<Model> make_bpe(const ModelSpec& spec, const Vocabulary& vocabulary,
                                bool byte_level) {
  return std::make_unique<Bpe>(spec, vocabulary, byte_level);
}

}  // namespace quietformer
