// Attention: o = normaliser(score(q, k) + bias) v, forward and backward, in one description that
// every implementation reads.
//
// Mathematics: a query i (0-based) sits at absolute position i + S - L (bottom-right alignment).
// With
//   s_ij = score(q_i, k_j) + bias_ij - alibi_slope |i + S - L - j|          for visible j
//   P_ij = weight of the normaliser (softmax_n: exp(s_ij) / (n + sum_j exp(s_ij)), sigmoid: ...)
//   o_i  = sum_j P_ij keep_ij / (1 - p) v_j                                  (dropout keep_ij)
// Key j is visible to i when causal, window, mask, key_padding and the packed sequence all allow
// it. Rows that see no key give zero output and zero gradient. Query head h reads key head h / (H /
// Hk). Hidden keys and values may hold anything finite (their weight is exactly 0, and 0 * NaN is
// NaN). A bias of -inf hides as well as a mask does.
//
// Types: q, k, v, q2, k2, o and their gradients are all f32, all f64 or all bf16, on a GPU also all
// f16; masks are u8 (0 = hidden); cu_seqlens i32. Everything else (bias, slopes, statistics,
// per-head parameters and their gradients) has the accumulation type: f32 for bf16 and f16, else
// that of q. With bf16 and f16 sums are f32, and each output is rounded once; weights are rounded
// for their product with v on a GPU, where operands of products have the storage type.
//
// A tensor is absent when its shape has rank 0 (the default). Outputs may not overlap inputs or
// each other; what is there is overwritten, gradients included.
//
// Sources: Vaswani et al. 2017 (dot, softmax); Miller 2023 (softmax plus one); Ramapuram et al.,
// arXiv 2409.04431 (sigmoid); Bondarenko et al., arXiv 2306.12929 (clipped softmax); Press et al.,
// arXiv 2108.12409 (ALiBi); Ainslie et al., arXiv 2305.13245 (grouped queries); Srivastava et al.
// 2014 (dropout). docs/attention.md has the formulas.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/lists.h"
#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// The scores of this build, from the list in attention/score: dot, cosine, piecewise.
#define QF_ENUMERATOR(word, Type) word,
enum class Score : std::uint8_t { QUIETFORMER_SCORES(QF_ENUMERATOR) };
#undef QF_ENUMERATOR

/// A normaliser has at most this many per-head parameters (n and sink logit; sigmoid bias; ...).
inline constexpr int kMaxHeadParameters = 4;

/// One per-head parameter of a normaliser, as its header declares it.
struct HeadParameterInfo {
  std::string_view name;  // config key and checkpoint name
  double default_value;   // used when the problem carries no tensor for it
  double example;         // a value away from special cases: tests and benchmarks use it
  double minimum;         // the smallest legal value; NaN is never legal
  double maximum = std::numeric_limits<double>::infinity();  // and the largest
};

/// What the build knows about a normaliser; made from the list in attention/normalizer.
struct NormalizerInfo {
  std::string_view name;
  std::vector<HeadParameterInfo> parameters;
  bool row_normalised;  // has a row denominator: lse, lse_scores and sink_mass exist
  bool clips;           // weights end at bounds: there gradients jump
};

/// All normalisers of this build, in the order of attention/normalizer/CMakeLists.txt.
const std::vector<NormalizerInfo>& normalizers();
/// Throws InputError listing the known names.
const NormalizerInfo& find_normalizer(std::string_view name);

std::string_view name_of(Score score);
Score find_score(std::string_view name);  // throws InputError listing the known names

/// Inverted dropout on the weights, after normalisation; lse, row_sum and the sink are not dropped.
/// Acts in Mode::train only.
struct AttentionDropout {
  double probability = 0;
  RandomKey key;  // ctx.random.key(RandomPurpose::attention_dropout, layer)
  std::uint32_t first_sample =
      0;  // batch entry b uses sample first_sample + b; (h, i, j) are local
  /// On a GPU, in its memory: what stands in for key and first_sample. Null: they hold.
  const StreamPlace* place = nullptr;
};

/// Everything that defines one attention call. Plain data; build it, fill what is needed, pass it.
///
/// Layout (rank 4): q (B,H,L,D), k (B,Hk,S,D), v (B,Hk,S,Dv), o (B,H,L,Dv); any batch, head and row
/// strides, unit inner stride, so BHTD, BTHD and slices of packed qkv need no copy. Use
/// set_inputs() for 2-D and 3-D tensors.
/// Packed sequences: cu_seqlens_q/k (B+1) are given; then q is (1,H,total_q,D), k and v
/// (1,Hk,total_k,.), o like q; sequence b owns rows [cu[b], cu[b+1]). Positions (i, j) of causal,
/// window, bias, mask and dropout count from the start of their sequence; L and S of bias, mask and
/// key_padding are then at least those of the longest sequence.
struct AttentionProblem {
  // --- inputs ---
  Tensor q, k, v;
  Tensor q2, k2;  // piecewise only: the far pair, shapes and types of q and k
  Score score = Score::dot;
  double scale = 0;  // required; default_scale() gives the conventional value
  int groups = 1;    // cosine: l2 norm over each of `groups` slices of D / groups features
  std::int64_t threshold = 0;  // piecewise: the far pair where i + S - L - j >= threshold

  std::string_view normalizer = "softmax_n";
  /// Per-head parameters (H), in the order of NormalizerInfo::parameters; absent = default value.
  std::array<Tensor, kMaxHeadParameters> head_parameters;

  bool causal = false;
  std::array<std::int64_t, 2> window{-1, -1};  // visible j in [p - left, p + right]; -1 = unlimited
  Tensor mask;                                 // u8 (B|1, H|1, L|1, S|1); nonzero = take part
  Tensor key_padding;                          // u8 (B, S); nonzero = take part
  Tensor bias;                                 // (B|1, H|1, L|1, S|1), added to the scaled score
  Tensor alibi_slopes;                         // (H) or (B, H)
  AttentionDropout dropout;
  Tensor cu_seqlens_q, cu_seqlens_k;  // i32 (B + 1), both or neither

  // --- outputs of forward ---
  Tensor o;
  Tensor row_state;  // (B,H,L): what backward needs from forward (softmax: lse). Required when a
                     // backward follows, unless the normaliser has no row denominator (then
                     // unused). Packed: (1,H,total_q), as all per-row outputs
  Tensor lse;  // (B,H,L) ln of the whole denominator, n included; -inf for an empty row, n = 0
  Tensor lse_scores;  // (B,H,L) n excluded
  Tensor sink_mass;   // (B,H,L) what the sink took of the denominator; 0 without one. 1 - row sum
                      // of softmax_n; clips take more
  Tensor row_sum;     // (B,H,L) sum_j P_ij, before dropout
  Tensor total_attention;  // (B,H,S) sum_i P_ij, before dropout. Packed: (1,H,total_k)
  Tensor weights;  // (B,H,L,S) P before dropout, zero where hidden; `reference` only, not packed

  // --- backward: reads the inputs, do_, o and row_state; overwrites the d* that are present ---
  Tensor do_;                   // gradient of o, shape of o, any strides with unit inner
  Tensor dq, dk, dv, dq2, dk2;  // shapes of q, k, v; any strides with unit inner
  Tensor dbias;                 // shape of bias, contiguous: summed over broadcast dimensions
  std::array<Tensor, kMaxHeadParameters> d_head_parameters;  // (H)
  Tensor dscale;                                             // (1): gradient of scale

  /// Scratch for the implementation, at least workspace_bytes() of it, u8, 64-byte aligned. Nothing
  /// in it outlives the call.
  Tensor workspace;

  std::int64_t batch() const {  // B, or the number of packed sequences
    return packed() ? cu_seqlens_q.shape[0] - 1 : q.shape[0];
  }
  std::int64_t heads() const { return q.shape[1]; }
  std::int64_t kv_heads() const { return k.shape[1]; }
  bool packed() const { return cu_seqlens_q.shape.rank != 0; }
};

/// Sets q, k, v (and o, do, dq, dk, dv where present) from tensors of lower rank: all 2-D (L,D) is
/// one head; all 3-D (N,L,D) is merged batch and heads, N batch entries of one head each; q 4-D
/// with k, v 3-D (B,S,D) is one shared kv head. InputError naming a tensor whose rank does not fit.
struct AttentionViews {
  Tensor q, k, v, q2, k2, o, do_, dq, dk, dv, dq2, dk2;
};
void set_inputs(AttentionProblem& problem, const AttentionViews& views);

/// 1 / sqrt(D) for dot and piecewise, 10 for cosine.
double default_scale(Score score, std::int64_t head_dim);

/// Checks shapes, types, strides, ranges and combinations; throws InputError with both values.
/// Of the contents only per-head parameters (their minimum) and cu_seqlens are looked at, and on a
/// GPU not these either: there the caller answers for them, and for bias and masks of packed
/// sequences being as long as the longest.
void check(const AttentionProblem& problem);

enum class Direction : std::uint8_t { forward, backward };

/// check() and, besides, that everything this direction reads and writes is there.
/// Implementations call it first.
void check(const AttentionProblem& problem, Direction direction);

/// One way to compute attention. Stateless, so several threads may use it at once; obtain from
/// implementations() or choose(). forward() and backward() throw InputError for what check() or
/// why_not() refuses and for a workspace that is too small or misaligned, and allocate nothing.
class AttentionImplementation {
 public:
  virtual ~AttentionImplementation() = default;
  virtual std::string_view name() const = 0;
  /// Why this implementation cannot run the (checked) problem; nullopt when it can.
  virtual std::optional<std::string> why_not(const AttentionProblem& problem,
                                             Direction direction) const = 0;
  /// Scratch that the direction may use, for problems of these shapes and options. Looks at shapes,
  /// types, options, ctx.threads and ctx.deterministic only, so tensors without memory (null data)
  /// will do.
  virtual std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                                       Direction direction) const = 0;
  virtual void forward(const Context& ctx, const AttentionProblem& problem) const = 0;
  virtual void backward(const Context& ctx, const AttentionProblem& problem) const = 0;
};

/// Every implementation of this build, preferred first. A word means the same on the CPU and on
/// GPUs; the device of q decides which of the two runs, and why_not() and workspace_bytes() answer
/// for that one.
const std::vector<const AttentionImplementation*>& implementations();

/// What serves both directions.
std::int64_t workspace_bytes(const AttentionImplementation& implementation, const Context& ctx,
                             const AttentionProblem& problem);

/// `name` "auto": the first that can run the problem in both directions, or, where `direction` says
/// that no backward will follow, forward alone. Any other name: that one, or InputError with its
/// why_not; never another.
const AttentionImplementation& choose(std::string_view name, const AttentionProblem& problem,
                                      Direction direction = Direction::backward);

/// Writes the dropout decisions of a problem, 1 = kept, contiguous u8 (B,H,L,S) or InputError; for
/// tests and debugging.
void dump_dropout_mask(const AttentionDropout& dropout, const Tensor& mask);

}  // namespace quietformer
