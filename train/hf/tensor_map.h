// How the tensors of somebody else's checkpoint become our parameters, as data: one rule per
// parameter pattern. A rule works both ways, so one map serves import and export.
//
// Names are patterns: one '*' in each stands for the number of a block ("h.*.ln_1.weight"). Our
// matrices are (out, in), and self-attention has one packed `attention.qkv`: rows of q, then k,
// then v, heads one after another (layers/self_attention.h). A rule says what theirs does else:
//
//   {"blocks.*.mlp.up.weight", {"h.*.mlp.c_fc.weight"}, Matrix::in_out}            transposed
//   {"blocks.*.attention.qkv.weight", {"l.*.q.weight", "l.*.k.weight", ...}}       concatenated
//   {"blocks.*.mlp.gate.weight", {"l.*.gate_up.weight"}, Matrix::out_in, {0, 2}}   the first half
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"
#include "layers/model_config.h"

namespace quietformer {

/// Order of their matrices' dimensions; in_out is that of GPT-2's Conv1D.
enum class Matrix : std::uint8_t { out_in, in_out };

/// Order of the rows of a packed qkv of theirs. by_kv_head: for each key/value head its query
/// heads, then k, then v (GPT-NeoX, BLOOM and Falcon).
enum class QkvOrder : std::uint8_t { q_k_v, by_kv_head };

/// Which features of a head rotary positions pair: d and d + D/2 (ours, see layers/position.h), or
/// 2d and 2d + 1 (Llama's original files, GPT-J): then rows of q and k change places.
enum class RotaryPairs : std::uint8_t { halves, adjacent };

/// The piece `index` of `count` equal ones, along the rows of ours.
struct TensorPart {
  int index = 0, count = 1;
};

struct TensorRule {
  std::string ours;
  std::vector<std::string> theirs;  // several: their rows one after another
  Matrix matrix = Matrix::out_in;
  TensorPart part = {};  // of theirs[0], when several parameters of ours share it
  QkvOrder order = QkvOrder::q_k_v;
  RotaryPairs pairs = RotaryPairs::halves;
};

/// A tensor that repeats another one (a tied head): it may be absent, and must be equal.
struct RepeatedTensor {
  std::string name, of;
};

/// Ends of names in old files, and what they are now.
struct RenamedTensor {
  std::string old_end, end;
};

struct TensorMap {
  std::vector<TensorRule> rules;
  std::vector<std::string> prefixes;     // that a file may leave out
  std::vector<std::string> ignored;      // patterns: buffers that carry nothing
  std::vector<RepeatedTensor> repeated;  // where a model without a head of its own may have one
  std::vector<RenamedTensor> renamed;

  /// Their name without a prefix that may be absent, old ends replaced: what names are compared by.
  std::string plain(std::string_view theirs) const;
  bool ignores(std::string_view theirs) const;
};

/// The digits that '*' stands for, "" when the pattern has none and is the name; nullopt: no match.
std::optional<std::string_view> match_name(std::string_view pattern, std::string_view name);

/// A run of whole rows of one parameter that lies in one tensor of theirs.
struct TensorCopy {
  std::string theirs;  // full name
  int rank = 2;        // of both, 1 or 2
  Matrix matrix = Matrix::out_in;
  std::int64_t rows = 0, columns = 1;
  std::int64_t our_row = 0, their_row = 0;  // where the run begins, counted along our rows
  std::int64_t their_rows = 0;              // of all of theirs
  /// order[r]: their row of our row r, both counted from the run's beginning; empty: r.
  std::vector<std::int64_t> order;

  Shape their_shape() const;
};

/// Where a parameter of this name and shape comes from; empty when the map does not know it.
/// `model` is resolved. InputError when the rule does not fit the shape.
std::vector<TensorCopy> plan_parameter(const TensorMap& map, std::string_view parameter,
                                       const Shape& shape, const ModelConfig& model);

/// Copies the run from their tensor into our parameter, or back; elements of `width` bytes (1, 2, 4
/// or 8), contiguous, of any alignment, on the host.
void copy_to_ours(const Context& ctx, const TensorCopy& copy, const void* theirs, void* ours,
                  int width);
/// The same for our rows [first, first + rows) alone, of which the first lies at `ours`; what of
/// them is not in the run stays as it is.
void copy_rows_to_ours(const Context& ctx, const TensorCopy& copy, const void* theirs,
                       std::int64_t first, std::int64_t rows, void* ours, int width);
void copy_to_theirs(const Context& ctx, const TensorCopy& copy, const void* ours, void* theirs,
                    int width);

}  // namespace quietformer
