#include "data/tokenizer/normalizer.h"

#include <algorithm>
#include <array>

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

// As in `tokenizers`, where the fifth range begins later than Unicode's block does.
constexpr std::array<std::array<char32_t, 2>, 8> kCjk{{{0x3400, 0x4DBF},
                                                       {0x4E00, 0x9FFF},
                                                       {0xF900, 0xFAFF},
                                                       {0x20000, 0x2A6DF},
                                                       {0x2A700, 0x2B73F},
                                                       {0x2B740, 0x2B81F},
                                                       {0x2B920, 0x2CEAF},
                                                       {0x2F800, 0x2FA1F}}};

bool is_cjk(char32_t c) {
  return c >= 0x3400 && std::any_of(kCjk.begin(), kCjk.end(), [c](const auto& range) {
           return c >= range[0] && c <= range[1];
         });
}

/// BERT's basic tokenizer up to the splitting (Devlin et al. 2019, tokenization.py): clean, spaces
/// around CJK characters, canonical decomposition without marks, lower case, in this order.
class BertNormalizer {
 public:
  explicit BertNormalizer(const NormalizerStep& step) : step_(step) {}

  std::string run(std::string_view text) {
    out_.reserve(text.size() + text.size() / 8);
    for (std::size_t at = 0; at < text.size();) {
      const Character c = character_at(text, at);
      at += c.bytes;
      clean(c.code);
    }
    flush_marks();
    return std::move(out_);
  }

 private:
  void clean(char32_t c) {
    if (step_.clean) {
      const bool blank = c == '\t' || c == '\n' || c == '\r';
      if (c == 0 || c == 0xFFFD || (!blank && unicode::is_control(c))) return;
      if (unicode::is_space(c)) c = ' ';
    }
    if (step_.spaces_around_cjk && is_cjk(c)) {
      decompose(' ');
      decompose(c);
      c = ' ';
    }
    decompose(c);
  }

  // Marks between two starters are put in the order of their classes before anything is left out.
  void decompose(char32_t c) {
    if (!step_.strip_accents) return lower(c);
    if (c < 0xC0) {
      flush_marks();
      return lower(c);
    }
    parts_.clear();
    unicode::append_decomposition(c, parts_);
    for (const char32_t part : parts_) {
      const int order = unicode::combining_class(part);
      if (order == 0) flush_marks();
      if (order != 0)
        marks_.push_back({order, part});
      else if (!unicode::is_mark(part))
        lower(part);
    }
  }

  void flush_marks() {
    if (marks_.empty()) return;
    std::stable_sort(marks_.begin(), marks_.end(),
                     [](const Mark& a, const Mark& b) { return a.order < b.order; });
    for (const Mark& mark : marks_)
      if (!unicode::is_mark(mark.code)) lower(mark.code);
    marks_.clear();
  }

  void lower(char32_t c) {
    if (!step_.lowercase) return append_utf8(c, out_);
    lowered_.clear();
    unicode::append_lower(c, lowered_);
    for (const char32_t part : lowered_) append_utf8(part, out_);
  }

  struct Mark {
    int order;
    char32_t code;
  };

  const NormalizerStep& step_;
  std::string out_;
  std::u32string parts_, lowered_;
  std::vector<Mark> marks_;
};

}  // namespace

std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text) {
  std::string result = valid_utf8(text);
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
      case NormalizerStep::Kind::bert:
        result = BertNormalizer(step).run(result);
        break;
      case NormalizerStep::Kind::prepend:
        if (!result.empty()) result.insert(0, step.content);
        break;
      case NormalizerStep::Kind::replace:
        result = replace_all(result, step.pattern, step.content);
        break;
    }
  }
  return result;
}

}  // namespace quietformer
