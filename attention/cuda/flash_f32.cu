#include "attention/cuda/flash_f32.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "attention/cuda/flash_f32_tile.cuh"
#include "attention/cuda/reference_steps.h"
#include "attention/cuda/rows.h"
#include "attention/cuda/shared_memory.h"
#include "attention/policies.h"
#include "attention/registry.h"
#include "attention/workspace.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

constexpr int kSums = kMaxHeadParameters + 1;

bool present(const Tensor& tensor) {
  return tensor.shape.rank != 0;
}

// --- kernels of the whole call ---

/// far[row] for every query row of a batch entry (which are alike) or of all packed sequences.
template <class S>
__global__ void far_keys_kernel(RowProblem<float> p, int* far) {
  for (std::int64_t row = first_index(); row < p.queries; row += index_step()) {
    const SequencePlace s = sequence_of(p, 0, row);
    far[row] =
        static_cast<int>(S::far_end(s.position(row - s.first_query), p.far_threshold, s.keys));
  }
}

void write_far_keys(const Context& ctx, Score score, const RowProblem<float>& p, int* far) {
  const auto start = [&]<class S>() {
    if constexpr (S::pairs == 2)
      launch(ctx, "far keys", shape_for(p.queries), far_keys_kernel<S>, p, far);
  };
#define QF_CASE(word, Type) \
  if (score == Score::word) start.template operator()<Type>();
  QUIETFORMER_SCORES(QF_CASE)
#undef QF_CASE
}

// --- one normaliser ---

struct Kernels {
  std::string_view normalizer;
  decltype(&FlashF32<SoftmaxN>::forward) forward, totals, key_gradients, bias_gradient;
  decltype(&FlashF32<SoftmaxN>::query_gradients) query_gradients;
  decltype(&FlashF32<SoftmaxN>::deltas) deltas;
};

const Kernels& kernels_of(std::string_view normalizer) {
#define QF_KERNELS(word, Type)       \
  {Type::name,                       \
   &FlashF32<Type>::forward,         \
   &FlashF32<Type>::totals,          \
   &FlashF32<Type>::key_gradients,   \
   &FlashF32<Type>::bias_gradient,   \
   &FlashF32<Type>::query_gradients, \
   &FlashF32<Type>::deltas},
  static constexpr Kernels kAll[] = {QUIETFORMER_NORMALIZERS(QF_KERNELS)};
#undef QF_KERNELS
  return *std::find_if(std::begin(kAll), std::end(kAll), [&](const Kernels& kernels) {
    return kernels.normalizer == normalizer;  // check() knows the same list
  });
}

/// What a direction keeps in its workspace; tensors without memory where that is absent, and of
/// rank 0 where not needed.
struct Workspace {
  Tensor q, k;       // normalised operands
  Tensor dq, dk;     // gradients of those
  Tensor row_state;  // where total_attention needs it and the problem has none
  Tensor far_keys;   // i32 (L)
  Tensor delta;      // (B, H, L)
  Tensor tile_sums;  // f64 (B, H, tiles, kSums)
  Tensor sums;       // f64 (B, H, kSums)
  std::int64_t bytes;

  Workspace(const AttentionProblem& p, Direction direction) {
    const bool backward = direction == Direction::backward,
               unit = info_of(p.score).operands == Operands::unit_groups;
    const Shape rows{p.q.shape[0], p.heads(), p.q.shape[2]};
    const std::int64_t tiles = p.q.shape[2] / kTile + p.batch() + 1;  // at most
    TensorCarver take(p);
    q = take(unit, DType::f32, p.q.shape);
    k = take(unit, DType::f32, p.k.shape);
    far_keys = take(info_of(p.score).pairs == 2, DType::i32, {p.q.shape[2]});
    row_state = take(!backward && present(p.total_attention) && !present(p.row_state) &&
                         find_normalizer(p.normalizer).row_normalised,
                     DType::f32, rows);
    dq = take(backward && unit && present(p.dq), DType::f32, p.q.shape);
    dk = take(backward && unit && present(p.dk), DType::f32, p.k.shape);
    delta = take(backward, DType::f32, rows);
    tile_sums = take(backward, DType::f64, {rows[0] * rows[1] * tiles * kSums});
    sums = take(backward, DType::f64, {rows[0] * rows[1] * kSums});
    bytes = take.bytes();
  }
};

/// The most shared memory that a block of any kernel of this direction takes, in bytes.
template <int dim>
int shared_bytes(const AttentionProblem& p, Direction direction) {
  const int features = static_cast<int>(p.q.shape[3]),
            widest = static_cast<int>(std::max(p.q.shape[3], p.v.shape[3]));
  if (direction == Direction::forward)
    return std::max(ForwardTiles<dim>::kBytes,
                    present(p.total_attention) ? totals_bytes(features) : 0);
  return std::max({QueryGradientTiles<dim>::kBytes, KeyGradientTiles<dim>::kBytes,
                   present(p.dbias) ? bias_bytes(widest) : 0});
}

int shared_bytes(const AttentionProblem& p, Direction direction) {
  return with_padded_dim(p.q.shape[3], p.v.shape[3],
                         [&]<int dim>() { return shared_bytes<dim>(p, direction); });
}

class FlashInF32 final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "flash"; }

  std::optional<std::string> why_not(const AttentionProblem& p,
                                     Direction direction) const override {
    if (p.q.device.type != DeviceType::cuda) return "runs on GPUs only";
    if (p.q.dtype != DType::f32)
      return "type " + std::string(name_of(p.q.dtype)) + ", takes f32, bf16 and f16 on GPUs";
    if (std::string reason = too_wide(p); !reason.empty()) return reason;
    // Positions and blocks of threads are counted in 32 bits.
    const std::int64_t tiles = std::max(p.q.shape[2], p.k.shape[2]) / kTile + p.batch() + 1;
    if (std::max(p.q.shape[2], p.k.shape[2]) > 1 << 30 ||
        tiles * p.q.shape[0] * p.heads() > 1 << 30)
      return "more rows than 32 bits count";
    if (std::string reason =
            too_little_shared_memory(p.q.device, shared_bytes(p, direction),
                                     std::max(p.q.shape[3], p.v.shape[3]), "f32 kernels");
        !reason.empty())
      return reason;
    if (direction == Direction::forward && present(p.weights))
      return "never holds the weights that the problem asks for";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context&, const AttentionProblem& problem,
                               Direction direction) const override {
    return Workspace(problem, direction).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    QF_EXPECTS(ctx.device == problem.q.device);
    const CurrentDevice current(ctx.device);
    const Workspace work(problem, Direction::forward);
    AttentionProblem p = problem;
    if (work.row_state) p.row_state = work.row_state;
    FlashF32Call call = begin(ctx, p, work);
    const Kernels& kernels = kernels_of(p.normalizer);
    kernels.forward(ctx, call);
    if (call.total_attention != nullptr) kernels.totals(ctx, call);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    QF_EXPECTS(ctx.device == problem.q.device);
    const CurrentDevice current(ctx.device);
    const Workspace work(problem, Direction::backward);
    const AttentionProblem& p = problem;
    FlashF32Call call = begin(ctx, p, work);
    call.d_out = MatrixView<const float>(p.do_);
    call.dq[0] = MatrixView<float>(present(work.dq) ? work.dq : p.dq);
    call.dk[0] = MatrixView<float>(present(work.dk) ? work.dk : p.dk);
    call.dq[1] = MatrixView<float>(p.dq2), call.dk[1] = MatrixView<float>(p.dk2);
    call.dv = MatrixView<float>(p.dv);
    call.delta = work.delta.as<float>();
    call.tile_sums = work.tile_sums.as<double>();
    double* const sums = work.sums.as<double>();
    if (work.sums.count() > 0) fill(ctx, work.sums, 0);
    const Kernels& kernels = kernels_of(p.normalizer);
    kernels.deltas(ctx, call, MatrixView<const float>(p.o), work.delta.as<float>(), sums);
    kernels.query_gradients(ctx, call, sums);
    kernels.key_gradients(ctx, call);
    if (p.dbias) {
      call.dbias = BroadcastView<float>(p.dbias);
      std::copy_n(p.dbias.shape.size.begin(), 4, call.bias_shape);
      kernels.bias_gradient(ctx, call);
    }
    if (present(work.dq)) l2norm_backward_rows(ctx, p.dq, work.dq, p.q, p.groups);
    if (present(work.dk)) l2norm_backward_rows(ctx, p.dk, work.dk, p.k, p.groups);
    write_parameter_gradients<float>(ctx, p, sums);
  }

 private:
  /// What both directions read, its operands made.
  static FlashF32Call begin(const Context& ctx, const AttentionProblem& p, const Workspace& work) {
    if (present(work.q)) l2norm_rows(ctx, work.q, p.q, p.groups);
    if (present(work.k)) l2norm_rows(ctx, work.k, p.k, p.groups);
    FlashF32Call call(RowProblem<float>(ctx, p));
    call.batch = static_cast<int>(p.q.shape[0]);
    call.pairs = info_of(p.score).pairs;
    call.far_keys = work.far_keys.as<int>();
    if (work.far_keys) write_far_keys(ctx, p.score, call.p, work.far_keys.as<int>());
    call.key_tiles = call.p.tiles(call.p.keys, kTile);
    call.q[0] = MatrixView<const float>(present(work.q) ? work.q : p.q);
    call.k[0] = MatrixView<const float>(present(work.k) ? work.k : p.k);
    call.q[1] = MatrixView<const float>(p.q2), call.k[1] = MatrixView<const float>(p.k2);
    call.v = MatrixView<const float>(p.v), call.o = MatrixView<float>(p.o);
    call.total_attention = p.total_attention.as<float>();
    return call;
  }
};

}  // namespace

const AttentionImplementation& flash_f32_implementation() {
  static const FlashInF32 flash;
  return flash;
}

}  // namespace quietformer::cuda
