#include "attention/cuda/flash.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <tuple>

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/flash_call.h"
#include "attention/cuda/hopper/forward.h"
#include "attention/cuda/instances.h"
#include "attention/cuda/shared_memory.h"
#include "attention/policies.h"
#include "attention/registry.h"
#include "attention/workspace.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

bool present(const Tensor& tensor) {
  return tensor.shape.rank != 0;
}

struct Entry {
  std::string_view score, normalizer;
  DType dtype;
  int dim;
  void (*forward)(const Context&, const FlashForwardCall&);
  void (*backward)(const Context&, const AttentionProblem&);
};

#define QF_INSTANCE(S, N, T, dtype, dim)  \
  {S::name,                               \
   N::name,                               \
   DType::dtype,                          \
   dim,                                   \
   &FlashInstance<S, N, T, dim>::forward, \
   &FlashBackwardInstance<S, N, T, dim>::backward},
constexpr Entry kEntries[] = {QUIETFORMER_FLASH_CUDA_INSTANCES(QF_INSTANCE)};
#undef QF_INSTANCE

bool unit_operands(const AttentionProblem& p) {
  return info_of(p.score).operands == Operands::unit_groups;
}

/// One group is dot with the inverse norms as factors of rows and columns. More groups, and, to
/// keep instances few, all of a normaliser that clips, are dot on operands that a kernel of its own
/// has normalised: rounded to their type, as an unfused computation would.
bool normalised_before(const AttentionProblem& p) {
  return unit_operands(p) && (p.groups > 1 || find_normalizer(p.normalizer).clips);
}

std::string_view score_of(const AttentionProblem& p) {
  return name_of(normalised_before(p) ? Score::dot : p.score);
}

int dim_of(const AttentionProblem& p) {
  return padded_dim(std::max(p.q.shape[3], p.v.shape[3]));
}

/// Null when the build left the instance out.
const Entry* find(const AttentionProblem& p) {
  const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) {
    return e.score == score_of(p) && e.normalizer == p.normalizer && e.dtype == p.q.dtype &&
           e.dim == dim_of(p);
  });
  return entry == std::end(kEntries) ? nullptr : entry;
}

/// Where forward keeps what in its workspace; without memory only the size counts.
struct ForwardWorkspace {
  Tensor unit_q, unit_k;          // the operands, normalised
  Tensor query_norms, key_norms;  // inverse, of one group
  Tensor row_state;
  std::int64_t bytes;

  explicit ForwardWorkspace(const AttentionProblem& p) {
    TensorCarver take(p);
    const Shape &q = p.q.shape, &k = p.k.shape;
    const bool before = normalised_before(p), norms = unit_operands(p) && !before;
    const bool total = present(p.total_attention);
    unit_q = take(before, p.q.dtype, q);
    unit_k = take(before, p.k.dtype, k);
    key_norms = take(norms, DType::f32, {k[0], k[1], norm_stride(k[2])});
    query_norms = take(norms && total, DType::f32, {q[0], q[1], q[2]});
    row_state = take(total && !present(p.row_state) && find_normalizer(p.normalizer).row_normalised,
                     DType::f32, {q[0], q[1], q[2]});
    bytes = take.bytes();
  }
};

/// What the kernels of backward are asked: the problem, or its dot of normalised operands, which
/// then have the front of the workspace.
struct BackwardPlan {
  AttentionProblem problem;
  std::int64_t front = 0;  // bytes of the workspace before the kernels'

  explicit BackwardPlan(const AttentionProblem& p) : problem(p) {
    if (!normalised_before(p)) return;
    TensorCarver take(p);
    for (const auto member : {&AttentionProblem::q, &AttentionProblem::k})
      problem.*member = take((p.*member).dtype, (p.*member).shape);
    problem.score = Score::dot;
    problem.groups = 1;
    front = take.bytes();
    if (p.workspace) problem.workspace = p.workspace.slice(0, front, p.workspace.bytes() - front);
  }
};

/// Why the backward does not fit the GPU; empty when it does.
std::string too_much_for_backward(const AttentionProblem& p) {
  const std::int64_t features = std::max(p.q.shape[3], p.v.shape[3]);
  const int dim = padded_dim(features);
  return too_little_shared_memory(p.q.device, BackwardTiles::of(dim).shared_bytes(dim), features,
                                  "backward");
}

class Flash final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "flash"; }

  std::optional<std::string> why_not(const AttentionProblem& p,
                                     Direction direction) const override {
    if (p.q.device.type != DeviceType::cuda) return "runs on GPUs only";
    if (p.q.dtype != DType::bf16 && p.q.dtype != DType::f16)
      return fmt::format("type {}, takes bf16 and f16 on GPUs", name_of(p.q.dtype));
    const bool forward = direction == Direction::forward;
    if (std::string reason = too_wide(p); !reason.empty()) return reason;
    if (find(p) == nullptr)
      return fmt::format(
          "{} with {} in {} for head dims up to {} is not in this build "
          "(QUIETFORMER_ATTENTION_INSTANCES={}, full has it)",
          name_of(p.score), p.normalizer, name_of(p.q.dtype), dim_of(p), kInstances);
    // Positions and blocks are counted in 32 bits.
    const std::int64_t rows = p.q.shape[0] * p.heads() * (p.q.shape[2] / 32 + p.batch() + 1),
                       columns = p.q.shape[0] * p.heads() * (p.k.shape[2] / 32 + p.batch() + 1);
    if (std::max(p.q.shape[2], p.k.shape[2]) > 1 << 30 || std::max(rows, columns) > 1 << 30)
      return "more rows than 32 bits count";
    if (!forward)
      if (std::string reason = too_much_for_backward(p); !reason.empty()) return reason;
    if (forward && present(p.weights)) return "never holds the weights that the problem asks for";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    if (direction == Direction::forward) return ForwardWorkspace(problem).bytes;
    const BackwardPlan plan(problem);
    return plan.front + FlashBackwardCall(ctx, plan.problem).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    QF_EXPECTS(ctx.device == problem.q.device);
    const ForwardWorkspace work(problem);
    AttentionProblem p = problem;
    if (work.unit_q) {
      unit_groups(ctx, work.unit_q, problem.q, problem.groups);
      unit_groups(ctx, work.unit_k, problem.k, problem.groups);
      p.q = work.unit_q, p.k = work.unit_k;
    }
    if (work.row_state) p.row_state = work.row_state;
    FlashForwardCall call(ctx, p);
    const HopperForwardFunction hopper =
        hopper_forward(ctx, score_of(problem), p.normalizer, p.q.dtype, call);
    for (const auto& [norms, rows, result] :
         {std::tuple{&work.query_norms, &p.q, &call.query_norms},
          std::tuple{&work.key_norms, &p.k, &call.key_norms}})
      if (*norms) {
        (hopper ? placed_inverse_norms : inverse_norms)(ctx, norms->as<float>(), *rows);
        *result = norms->as<float>();
      }
    if (hopper)
      hopper(ctx, call);
    else
      find(problem)->forward(ctx, call);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    QF_EXPECTS(ctx.device == problem.q.device);
    const BackwardPlan plan(problem);
    const bool before = normalised_before(problem);
    if (before) {
      unit_groups(ctx, plan.problem.q, problem.q, problem.groups);
      unit_groups(ctx, plan.problem.k, problem.k, problem.groups);
    }
    find(problem)->backward(ctx, plan.problem);
    if (before) {
      unit_groups_backward(ctx, problem.dq, problem.q, problem.groups);
      unit_groups_backward(ctx, problem.dk, problem.k, problem.groups);
    }
  }
};

float* output(const Tensor& tensor) {
  return tensor ? tensor.as<float>() : nullptr;
}

}  // namespace

std::string too_wide(const AttentionProblem& p) {
  const std::int64_t most = *std::max_element(std::begin(kFlashDims), std::end(kFlashDims));
  for (const auto& [name, dim] : {std::pair{"D", p.q.shape[3]}, {"Dv", p.v.shape[3]}})
    if (dim > most) return fmt::format("head dim {} = {}, takes at most {}", name, dim, most);
  return {};
}

RowTensor::RowTensor(const Tensor& tensor)
    : data(tensor.data),
      batch(tensor.stride[0]),
      head(tensor.stride[1]),
      row(tensor.stride[2]),
      aligned(reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && batch % 8 == 0 && head % 8 == 0 &&
              row % 8 == 0 && tensor.shape[3] % 8 == 0) {}

PairDistances::PairDistances(const AttentionProblem& p) {
  // Distances of keys are between -L and S.
  const std::int64_t queries = p.q.shape[2], keys = p.k.shape[2];
  const auto within = [&](std::int64_t distance) {
    return static_cast<int>(std::clamp<std::int64_t>(distance, -queries - 1, keys + 1));
  };
  const int left = p.window[0] < 0 ? static_cast<int>(keys) : within(p.window[0]),
            right = p.causal
                        ? 0
                        : (p.window[1] < 0 ? static_cast<int>(queries) : -within(-p.window[1]));
  const bool two = info_of(p.score).pairs == 2;
  low[0] = -right, high[0] = two ? std::min(left, within(p.threshold) - 1) : left;
  low[1] = std::max(-right, within(p.threshold)), high[1] = left;
}

FlashForwardCall::FlashForwardCall(const Context& ctx, const AttentionProblem& p)
    : q{RowTensor(p.q), RowTensor(p.q2)},
      k{RowTensor(p.k), RowTensor(p.k2)},
      v(p.v),
      o(p.o),
      heads(static_cast<int>(p.heads())),
      group(static_cast<int>(p.heads() / p.kv_heads())),
      batch(static_cast<int>(p.q.shape[0])),
      queries(static_cast<int>(p.q.shape[2])),
      keys(static_cast<int>(p.k.shape[2])),
      dim(static_cast<int>(p.q.shape[3])),
      value_dim(static_cast<int>(p.v.shape[3])),
      // Never 0: -inf times it must be -inf.
      scale(std::max(static_cast<float>(std::abs(p.scale)), std::numeric_limits<float>::min())),
      negative(p.scale < 0),
      band(queries, keys, p.causal, p.window),
      // Distances lie between -L and S; clamping keeps far_end() from overflowing.
      threshold(std::clamp(p.threshold, -p.q.shape[2], p.k.shape[2])),
      distances(p),
      options(ctx, p),
      query_norms(nullptr),
      key_norms(nullptr),
      parameters{},
      defaults{},
      row_state(output(p.row_state)),
      lse(output(p.lse)),
      lse_scores(output(p.lse_scores)),
      sink_mass(output(p.sink_mass)),
      row_sum(output(p.row_sum)),
      total_attention(output(p.total_attention)) {
  const auto& infos = find_normalizer(p.normalizer).parameters;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    parameters[i] = output(p.head_parameters[i]);
    defaults[i] = static_cast<float>(infos[i].default_value);
  }
}

const AttentionImplementation& flash_implementation() {
  static const Flash flash;
  return flash;
}

}  // namespace quietformer::cuda
