// What the kernels of `flash` on a GPU read of a problem: plain data, passed by value at the
// launch.
#pragma once

#include <cstdint>
#include <string>

#include "attention/attention.h"
#include "attention/cuda/options.h"
#include "attention/mask.h"

namespace quietformer::cuda {

/// Rows of a (B, heads, length, features) tensor of 16-bit elements with unit inner stride.
struct RowTensor {
  void* data = nullptr;
  std::int64_t batch = 0, head = 0, row = 0;  // strides in elements
  bool aligned = false;  // every group of 8 features lies at a multiple of 16 bytes

  RowTensor() = default;
  explicit RowTensor(const Tensor& tensor);

  QF_HOST_DEVICE std::uint16_t* rows(std::int64_t b, std::int64_t h) const {
    return static_cast<std::uint16_t*>(data) + b * batch + h * head;
  }
};

/// Query i sees key j of a pair when low <= i + S - L - j <= high: causality, window, threshold.
struct PairDistances {
  int low[2], high[2];
  explicit PairDistances(const AttentionProblem& problem);
};

struct FlashForwardCall {
  RowTensor q[2], k[2], v, o;  // [2]: near and far pair
  int heads, group, batch;     // group: query heads per key head; batch: of the tensors
  int queries, keys;           // L, S; packed: of all sequences together
  int dim, value_dim;          // D, Dv
  float scale;                 // its size; `negative` is its sign
  bool negative;
  Band band;
  std::int64_t threshold;
  PairDistances distances;  // what band and threshold say
  FlashOptions options;
  // (B, H, L) and (B, Hk, S) of unit operands; only total_attention asks for those of queries.
  const float *query_norms, *key_norms;
  const float* parameters[kMaxHeadParameters];
  float defaults[kMaxHeadParameters];
  float *row_state, *lse, *lse_scores, *sink_mass, *row_sum;  // (B, H, L) or null
  float* total_attention;                                     // (B, H, S) or null

  FlashForwardCall(const Context& ctx, const AttentionProblem& problem);
};

/// Head dims are padded to one of these.
inline constexpr int kFlashDims[] = {64, 128, 256};
constexpr int padded_dim(std::int64_t dim) {
  return dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
}
/// Why the heads do not fit the widest; empty when they do.
std::string too_wide(const AttentionProblem& problem);

struct Bf16;  // mma.cuh
struct F16;

/// The forward of a (score, normaliser) pair for an operand type and a padded head dim;
/// instantiated in generated sources, one each.
template <class S, class N, class T, int dim>
struct FlashInstance {
  /// Starts the kernels of forward for a problem that why_not() accepts. The norms of unit operands
  /// must be there, and row_state where total_attention is asked for.
  static void forward(const Context& ctx, const FlashForwardCall& call);
};

/// out (B, heads, length) f32 = the inverse l2 norms of the rows of x (bf16 or f16), as Cosine
/// defines them.
void inverse_norms(const Context& ctx, float* out, const Tensor& x);

/// out = x with each of `groups` slices of features divided by its l2 norm; out is contiguous, of
/// the shape and type of x.
void unit_groups(const Context& ctx, const Tensor& out, const Tensor& x, int groups);

/// dx, the gradient of that `out`, becomes the gradient of x; absent is fine. Any strides.
void unit_groups_backward(const Context& ctx, const Tensor& dx, const Tensor& x, int groups);

}  // namespace quietformer::cuda
