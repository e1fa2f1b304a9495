#include "data/tokenizer/decoder.h"

#include <array>
#include <cstdint>
#include <utility>

#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocabulary.h"

namespace quietformer {
namespace {

/// The bytes that a token's characters stand for, or the token itself where one stands for none.
std::string bytes_of(const std::string& token) {
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    const Character c = character_at(token, at);
    const int byte = byte_of_character(c.code);
    if (byte < 0) return token;
    out += static_cast<char>(byte);
    at += c.bytes;
  }
  return out;
}

// What BERT's splitting tore apart, in this order.
std::string cleaned_up(std::string text) {
  constexpr std::array<std::array<std::string_view, 2>, 11> kForms{{{" .", "."},
                                                                    {" ?", "?"},
                                                                    {" !", "!"},
                                                                    {" ,", ","},
                                                                    {" ' ", "'"},
                                                                    {" n't", "n't"},
                                                                    {" 'm", "'m"},
                                                                    {" do not", " don't"},
                                                                    {" 's", "'s"},
                                                                    {" 've", "'ve"},
                                                                    {" 're", "'re"}}};
  if (text.find(' ') == std::string::npos) return text;
  for (const auto& [torn, whole] : kForms) text = replace_all(text, torn, whole);
  return text;
}

void wordpiece(const DecoderStep& step, std::vector<std::string>& tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    if (i > 0 && token.starts_with(step.pattern))
      token.erase(0, step.pattern.size());
    else if (i > 0)
      token.insert(0, " ");
    if (step.cleanup) token = cleaned_up(std::move(token));
  }
}

int hexadecimal(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// "<0xE2>" is one byte.
void byte_fallback(std::vector<std::string>& tokens) {
  for (std::string& token : tokens) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') continue;
    const int high = hexadecimal(token[3]), low = hexadecimal(token[4]);
    if (high >= 0 && low >= 0) token.assign(1, static_cast<char>(16 * high + low));
  }
}

void fuse(std::vector<std::string>& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  tokens.assign(1, std::move(all));
}

void strip(const DecoderStep& step, std::vector<std::string>& tokens) {
  for (std::string& token : tokens) {
    for (std::int64_t n = 0; n < step.start && token.starts_with(step.content); ++n)
      token.erase(0, step.content.size());
    for (std::int64_t n = 0; n < step.stop && token.ends_with(step.content); ++n)
      token.resize(token.size() - step.content.size());
  }
}

void apply(const DecoderStep& step, std::vector<std::string>& tokens) {
  switch (step.kind) {
    case DecoderStep::Kind::byte_level:
      for (std::string& token : tokens) token = bytes_of(token);
      return;
    case DecoderStep::Kind::wordpiece:
      return wordpiece(step, tokens);
    case DecoderStep::Kind::metaspace:
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = replace_all(tokens[i], step.content, i == 0 && step.drop_first ? "" : " ");
      return;
    case DecoderStep::Kind::replace:
      for (std::string& token : tokens) token = replace_all(token, step.pattern, step.content);
      return;
    case DecoderStep::Kind::byte_fallback:
      return byte_fallback(tokens);
    case DecoderStep::Kind::fuse:
      return fuse(tokens);
    case DecoderStep::Kind::strip:
      return strip(step, tokens);
  }
}

}  // namespace

std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens) {
  for (const DecoderStep& step : steps) apply(step, tokens);
  fuse(tokens);
  return std::move(tokens.front());
}

}  // namespace quietformer
