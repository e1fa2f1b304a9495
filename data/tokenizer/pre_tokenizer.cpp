#include "data/tokenizer/pre_tokenizer.h"

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

using Word = std::function<void(std::string_view)>;
using unicode::Class;

/// The words of GPT-2's pattern (Radford et al. 2019, encoder.py):
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// A byte that is not UTF-8 is neither letter, number nor space.
class Gpt2Words {
 public:
  Gpt2Words(std::string_view text, const Word& word) : text_(text), word_(word) {}

  void run() {
    while (at_ < text_.size()) {
      const std::size_t end = end_of_word();
      word_(text_.substr(at_, end - at_));
      at_ = end;
    }
  }

 private:
  struct Look {
    Class kind;
    std::size_t end;
  };
  Look look(std::size_t at) const {
    const Character c = character_at(text_, at);
    return {c.valid ? unicode::classify(c.code) : Class::other, at + c.bytes};
  }

  std::size_t end_of_word() const {
    if (text_[at_] == '\'')
      if (const std::size_t length = contraction(); length > 0) return at_ + length;
    Look look_here = look(at_);
    if (text_[at_] == ' ' && at_ + 1 < text_.size())
      if (const Look next = look(at_ + 1); next.kind != Class::space) look_here = next;
    return look_here.kind == Class::space ? end_of_space(look_here.end) : end_of_run(look_here);
  }

  std::size_t end_of_run(Look here) const {
    while (here.end < text_.size()) {
      const Look next = look(here.end);
      if (next.kind != here.kind) break;
      here.end = next.end;
    }
    return here.end;
  }

  // White space before a word leaves its last character to it, or alone.
  std::size_t end_of_space(std::size_t end) const {
    std::size_t before_last = at_;
    while (end < text_.size()) {
      const Look next = look(end);
      if (next.kind != Class::space) return before_last > at_ ? before_last : end;
      before_last = end;
      end = next.end;
    }
    return end;
  }

  std::size_t contraction() const {
    for (const std::string_view form : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (text_.substr(at_).starts_with(form)) return form.size();
    return 0;
  }

  std::string_view text_;
  const Word& word_;
  std::size_t at_ = 0;
};

/// Runs of what `group` gives the same number above 0; 0 is left out, and a negative number is a
/// word by itself.
template <class Group>
void split_runs(std::string_view text, const Word& word, Group&& group) {
  std::size_t begin = 0;
  int current = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    const int next = group(c.code);
    if (next != current || next < 0) {
      if (current != 0) word(text.substr(begin, at - begin));
      begin = at;
      current = next;
    }
    at += c.bytes;
  }
  if (current != 0) word(text.substr(begin));
}

void split_metaspace(const PreTokenizerSpec& spec, std::string_view piece, bool first,
                     const Word& word) {
  const std::string& sign = spec.replacement;
  std::string text;
  for (const char c : piece) c == ' ' ? text += sign : text += c;
  const bool wanted =
      spec.prepend == PrependScheme::always || (spec.prepend == PrependScheme::first && first);
  if (wanted && !text.starts_with(sign)) text.insert(0, sign);
  if (!spec.split) return word(text);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(sign, begin + 1), text.size());
    word(std::string_view(text).substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace

void split_words(const PreTokenizerSpec& spec, std::string_view piece, bool first,
                 const Word& word) {
  if (piece.empty()) return;
  switch (spec.kind) {
    case PreTokenizerSpec::Kind::none:
      return word(piece);
    case PreTokenizerSpec::Kind::byte_level: {
      std::string prefixed;
      if (spec.add_prefix_space && piece.front() != ' ') {
        prefixed.append(" ").append(piece);
        piece = prefixed;
      }
      return spec.use_regex ? Gpt2Words(piece, word).run() : word(piece);
    }
    case PreTokenizerSpec::Kind::bert:
      return split_runs(piece, word, [](char32_t c) {
        return unicode::is_space(c) ? 0 : unicode::is_punctuation(c) ? -1 : 1;
      });
    case PreTokenizerSpec::Kind::whitespace:
      return split_runs(piece, word, [](char32_t c) {
        return unicode::is_space(c) ? 0 : unicode::is_word(c) ? 1 : 2;
      });
    case PreTokenizerSpec::Kind::whitespace_split:
      return split_runs(piece, word, [](char32_t c) { return unicode::is_space(c) ? 0 : 1; });
    case PreTokenizerSpec::Kind::metaspace:
      return split_metaspace(spec, piece, first, word);
  }
}

}  // namespace quietformer
