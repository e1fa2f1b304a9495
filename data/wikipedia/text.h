// Words into a string with the right spaces and capitals.
#pragma once

#include <string>
#include <string_view>

namespace quietformer::wikipedia {

/// Appends running text. A space goes before a word or an opening mark unless one of these says no.
class Text {
 public:
  explicit Text(std::string& out) : out_(out) {}

  void word(std::string_view w) {
    space();
    if (capital_ && w[0] >= 'a' && w[0] <= 'z') {
      out_ += static_cast<char>(w[0] - 'a' + 'A');
      w.remove_prefix(1);
    }
    out_ += w;
    capital_ = false;
    glued_ = false;
  }
  /// An opening mark: "[[", "''", "(". The next word sticks to it.
  void open(std::string_view mark) {
    space();
    out_ += mark;
    glued_ = true;
  }
  /// A closing mark, a full stop or ready-made text: sticks to what stands before.
  void close(std::string_view mark) {
    out_ += mark;
    glued_ = false;
    capital_ = false;
  }
  /// Begins a line (and, with the next word, a sentence).
  void line(std::string_view start) {
    out_ += start;
    glued_ = true;
    capital_ = true;
  }
  void capital() { capital_ = true; }
  std::string& raw() { return out_; }

 private:
  void space() {
    if (!glued_) out_ += ' ';
  }

  std::string& out_;
  bool glued_ = true;
  bool capital_ = true;
};

enum class Alphabet : unsigned char { cyrillic, greek };

/// A title letter by letter in another alphabet, as links to other languages show it. What is not
/// a-z or A-Z stays.
std::string transliterated(std::string_view title, Alphabet alphabet);

/// 1234567 as "1,234,567".
std::string with_commas(int number);

}  // namespace quietformer::wikipedia
