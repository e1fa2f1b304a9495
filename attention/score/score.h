// What a score policy must provide. A new score is one header NAME.h in this folder with a
// `struct Name` that models ScorePolicy, and NAME in CMakeLists.txt.
//
// A score is a scaled dot product of rows: scale * f(q_i) . f(k_j). The policy says what f does to
// the rows (`operands`) and how many pairs (q, k) there are; with two, the keys j < far_end(...) of
// a row take theirs from (q2, k2).
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

namespace quietformer {

/// What happens to the rows of q and k before the product.
enum class Operands : std::uint8_t {
  as_given,
  unit_groups,  // each of `groups` slices of features is divided by its l2 norm
};

// clang-format off
template <class S>
concept ScorePolicy = requires(std::int64_t n) {
  { S::name } -> std::convertible_to<std::string_view>;
  { S::operands } -> std::convertible_to<Operands>;
  { S::pairs } -> std::convertible_to<int>;            // 1, or 2: near (q, k) and far (q2, k2)
  { S::default_scale(n) } -> std::same_as<double>;     // for head dim n
} && (S::pairs == 1 || requires(std::int64_t n) {
  // Keys [0, far_end) use the far pair, for a query at position n and threshold n, of S = n keys.
  { S::far_end(n, n, n) } -> std::same_as<std::int64_t>;
});
// clang-format on

}  // namespace quietformer
