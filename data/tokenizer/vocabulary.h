// Tokens and their ids.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quietformer {

/// From texts to ids; texts and ids are each unique.
class Vocabulary {
 public:
  /// InputError "WHERE: ..." when the token or the id is there already.
  void add(std::string token, std::int32_t id, const std::string& where);

  std::optional<std::int32_t> find(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  /// Null when no token has this id.
  const std::string* token(std::int32_t id) const;
  std::int64_t size() const { return std::ssize(ids_); }
  std::size_t longest() const { return longest_; }  // bytes
  /// The first id from 0 on that no token has.
  std::int32_t first_hole() const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::int32_t, const std::string*> tokens_;
  std::size_t longest_ = 0;
};

/// Byte-level BPE writes every byte as a character that can be seen (GPT-2, encoder.py): printable
/// Latin-1 as itself, the others as U+0100 and following.
char32_t character_of_byte(std::uint8_t byte);
/// The byte that a character stands for; -1 when it stands for none.
int byte_of_character(char32_t c);

}  // namespace quietformer
