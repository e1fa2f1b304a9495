#include "train/hf/tensor_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

std::string substitute(std::string_view pattern, std::string_view number) {
  std::string name(pattern);
  if (const std::size_t star = name.find('*'); star != std::string::npos)
    name.replace(star, 1, number);
  return name;
}

bool is_packed_qkv(std::string_view parameter) {
  return parameter.ends_with(".qkv.weight") || parameter.ends_with(".qkv.bias");
}

// Rows of our parameter that each of `count` tensors of theirs holds.
std::vector<std::int64_t> rows_of_pieces(std::string_view parameter, const Shape& shape,
                                         const ModelConfig& model, std::size_t count) {
  const std::int64_t kv_rows = model.kv_heads * model.head_dim(), rows = shape[0];
  if (is_packed_qkv(parameter) && count == 3) return {rows - 2 * kv_rows, kv_rows, kv_rows};
  if (is_packed_qkv(parameter) && count == 2) return {rows - 2 * kv_rows, 2 * kv_rows};
  const auto pieces = static_cast<std::int64_t>(count);
  if (rows % pieces != 0)
    throw InputError(
        fmt::format("{}: {} rows are not divisible among {} tensors", parameter, rows, pieces));
  return std::vector<std::int64_t>(count, rows / pieces);
}

// For our row r of the packed qkv (q, k, v) their row.
std::vector<std::int64_t> order_of_qkv(const TensorRule& rule, const ModelConfig& model) {
  const std::int64_t D = model.head_dim(), H = model.heads, Hk = model.kv_heads, group = H / Hk;
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>((H + 2 * Hk) * D));
  for (std::int64_t head = 0; head < H + 2 * Hk; ++head) {
    std::int64_t theirs = head;
    if (rule.order == QkvOrder::by_kv_head) {
      const std::int64_t kv = head < H ? head / group : (head - H) % Hk;
      const std::int64_t place = head < H ? head % group : group + (head - H) / Hk;
      theirs = kv * (group + 2) + place;
    }
    const bool turned = rule.pairs == RotaryPairs::adjacent && head < H + Hk;
    for (std::int64_t d = 0; d < D; ++d)
      order.push_back(theirs * D + (!turned ? d : d < D / 2 ? 2 * d : 2 * (d - D / 2) + 1));
  }
  return order;
}

// The part of an order that lies in rows [begin, begin + rows) on both sides.
std::vector<std::int64_t> cut(const std::vector<std::int64_t>& order, std::int64_t begin,
                              std::int64_t rows) {
  std::vector<std::int64_t> part;
  for (std::int64_t r = begin; r < begin + rows; ++r) {
    const std::int64_t theirs = order[static_cast<std::size_t>(r)] - begin;
    if (theirs < 0 || theirs >= rows)
      throw InputError("a qkv in several tensors: found order by_kv_head, expected q_k_v");
    part.push_back(theirs);
  }
  return part;
}

enum class MoveDirection : std::uint8_t { to_ours, to_theirs };

// Rows [begin, end) of the run. `ours` points at our row `origin`.
template <class T, MoveDirection direction>
void move_rows(const TensorCopy& copy, char* ours, std::int64_t origin, char* theirs,
               std::int64_t begin, std::int64_t end) {
  const std::int64_t our_row = copy.our_row - origin;
  const auto move = [&](std::int64_t our_at, std::int64_t their_at, std::int64_t count) {
    char* const a = ours + our_at * std::int64_t(sizeof(T));
    char* const b = theirs + their_at * std::int64_t(sizeof(T));
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if constexpr (direction == MoveDirection::to_ours)
      std::memcpy(a, b, bytes);
    else
      std::memcpy(b, a, bytes);
  };
  const std::int64_t C = copy.columns;
  const auto their_row = [&](std::int64_t r) {
    return copy.their_row + (copy.order.empty() ? r : copy.order[static_cast<std::size_t>(r)]);
  };
  if (copy.matrix == Matrix::out_in || copy.rank == 1) {
    if (copy.order.empty())
      return move((our_row + begin) * C, their_row(begin) * C, (end - begin) * C);
    for (std::int64_t r = begin; r < end; ++r) move((our_row + r) * C, their_row(r) * C, C);
    return;
  }
  // Column blocks, so that the lines of theirs which a block touches stay in the cache.
  constexpr std::int64_t kBlock = 32;
  for (std::int64_t first = 0; first < C; first += kBlock)
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t row = their_row(r), last = std::min(C, first + kBlock);
      for (std::int64_t c = first; c < last; ++c)
        move((our_row + r) * C + c, c * copy.their_rows + row, 1);
    }
}

struct Ours {
  void* data;
  std::int64_t first, rows;  // those that are there
};

template <MoveDirection direction>
void move_all(const Context& ctx, const TensorCopy& copy, const Ours& ours, void* theirs,
              int width) {
  constexpr std::int64_t kRows = 32;
  const std::int64_t first = std::max<std::int64_t>(0, ours.first - copy.our_row);
  const std::int64_t last = std::min(copy.rows, ours.first + ours.rows - copy.our_row);
  if (first >= last) return;
  const std::int64_t grain =
      copy.rank == 1 ? copy.rows : std::max(kRows, (std::int64_t{1} << 16) / copy.columns);
  parallel_for(
      ctx, last - first, std::max<std::int64_t>(grain / kRows * kRows, kRows),
      [&](std::int64_t begin, std::int64_t end) {
        char *const a = static_cast<char*>(ours.data), *const b = static_cast<char*>(theirs);
        const auto run = [&]<class T>(T) {
          // Blocks of rows for the same reason as those of columns.
          for (std::int64_t r = first + begin; r < first + end; r += kRows)
            move_rows<T, direction>(copy, a, ours.first, b, r, std::min(first + end, r + kRows));
        };
        switch (width) {
          case 1:
            return run(std::uint8_t{});
          case 2:
            return run(std::uint16_t{});
          case 4:
            return run(std::uint32_t{});
          default:
            QF_EXPECTS(width == 8);
            return run(std::uint64_t{});
        }
      });
}

// All rows that the run writes.
Ours whole(const TensorCopy& copy, const void* ours) {
  return {const_cast<void*>(ours), 0, copy.our_row + copy.rows};
}

}  // namespace

std::optional<std::string_view> match_name(std::string_view pattern, std::string_view name) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos)
    return name == pattern ? std::optional<std::string_view>("") : std::nullopt;
  const std::string_view head = pattern.substr(0, star), tail = pattern.substr(star + 1);
  if (!name.starts_with(head) || !name.ends_with(tail) || name.size() <= head.size() + tail.size())
    return std::nullopt;
  const std::string_view number = name.substr(head.size(), name.size() - head.size() - tail.size());
  if (number.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  return number;
}

std::string TensorMap::plain(std::string_view theirs) const {
  for (const std::string& prefix : prefixes)
    if (theirs.starts_with(prefix)) {
      theirs.remove_prefix(prefix.size());
      break;
    }
  for (const RenamedTensor& rename : renamed)
    if (theirs.ends_with(rename.old_end))
      return std::string(theirs.substr(0, theirs.size() - rename.old_end.size())) + rename.end;
  return std::string(theirs);
}

bool TensorMap::ignores(std::string_view theirs) const {
  const std::string name = plain(theirs);
  return std::any_of(ignored.begin(), ignored.end(), [&](const std::string& pattern) {
    return match_name(plain(pattern), name).has_value();
  });
}

Shape TensorCopy::their_shape() const {
  if (rank == 1) return {their_rows};
  return matrix == Matrix::in_out ? Shape{columns, their_rows} : Shape{their_rows, columns};
}

std::vector<TensorCopy> plan_parameter(const TensorMap& map, std::string_view parameter,
                                       const Shape& shape, const ModelConfig& model) {
  for (const TensorRule& rule : map.rules) {
    const auto number = match_name(rule.ours, parameter);
    if (!number) continue;
    QF_EXPECTS(!rule.theirs.empty() && rule.part.index < rule.part.count);
    if (shape.rank != 1 && shape.rank != 2)
      throw InputError(fmt::format("{}: found shape {}, expected one or two dimensions", parameter,
                                   to_string(shape)));
    const bool ordered = is_packed_qkv(parameter) &&
                         (rule.order != QkvOrder::q_k_v || rule.pairs != RotaryPairs::halves);
    const auto order = ordered ? order_of_qkv(rule, model) : std::vector<std::int64_t>();
    const auto pieces = rows_of_pieces(parameter, shape, model, rule.theirs.size());
    std::vector<TensorCopy> copies;
    std::int64_t row = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      TensorCopy copy;
      copy.theirs = substitute(rule.theirs[i], *number);
      copy.rank = shape.rank;
      copy.matrix = rule.matrix;
      copy.rows = pieces[i];
      copy.columns = shape.rank == 2 ? shape[1] : 1;
      copy.our_row = row;
      copy.their_row = rule.part.index * pieces[i];
      copy.their_rows = rule.part.count * pieces[i];
      if (ordered) copy.order = cut(order, row, pieces[i]);
      row += pieces[i];
      copies.push_back(std::move(copy));
    }
    return copies;
  }
  return {};
}

void copy_to_ours(const Context& ctx, const TensorCopy& copy, const void* theirs, void* ours,
                  int width) {
  move_all<MoveDirection::to_ours>(ctx, copy, whole(copy, ours), const_cast<void*>(theirs), width);
}

void copy_rows_to_ours(const Context& ctx, const TensorCopy& copy, const void* theirs,
                       std::int64_t first, std::int64_t rows, void* ours, int width) {
  move_all<MoveDirection::to_ours>(ctx, copy, {ours, first, rows}, const_cast<void*>(theirs),
                                   width);
}

void copy_to_theirs(const Context& ctx, const TensorCopy& copy, const void* ours, void* theirs,
                    int width) {
  move_all<MoveDirection::to_theirs>(ctx, copy, whole(copy, ours), theirs, width);
}

}  // namespace quietformer
