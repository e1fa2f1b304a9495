#include "data/wikipedia/text.h"

namespace quietformer::wikipedia {

std::string transliterated(std::string_view title, Alphabet alphabet) {
  constexpr std::string_view kCyrillic[] = {"а", "б", "ц", "д", "е", "ф", "г", "х", "и",
                                            "й", "к", "л", "м", "н", "о", "п", "я", "р",
                                            "с", "т", "у", "в", "ш", "з", "ы", "ж"};
  constexpr std::string_view kGreek[] = {"α", "β", "κ", "δ", "ε", "φ", "γ", "η", "ι",
                                         "ζ", "κ", "λ", "μ", "ν", "ο", "π", "θ", "ρ",
                                         "σ", "τ", "υ", "β", "ω", "ξ", "ψ", "ζ"};
  std::string text;
  for (char c : title) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower >= 'a' && lower <= 'z')
      text += (alphabet == Alphabet::greek ? kGreek : kCyrillic)[lower - 'a'];
    else
      text += c;
  }
  return text;
}

std::string with_commas(int number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

}  // namespace quietformer::wikipedia
