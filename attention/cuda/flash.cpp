#include "attention/cuda/flash.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/flash_call.h"
#include "attention/cuda/pairs.h"
#include "attention/policies.h"
#include "attention/registry.h"
#include "attention/workspace.h"

namespace quietformer::cuda {
namespace {

bool present(const Tensor& tensor) {
  return tensor.shape.rank != 0;
}

struct Entry {
  std::string_view score, normalizer;
  void (*forward)(const Context&, const AttentionProblem&);
  void (*backward)(const Context&, const AttentionProblem&);
};

#define QF_PAIR(S, N) \
  {S::name, N::name, &FlashPair<S, N>::forward, &FlashBackwardPair<S, N>::backward},
constexpr Entry kEntries[] = {QUIETFORMER_FLASH_CUDA_PAIRS(QF_PAIR)};
#undef QF_PAIR

/// Null when the build left the pair out.
const Entry* find(const AttentionProblem& problem) {
  const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) {
    return e.score == name_of(problem.score) && e.normalizer == problem.normalizer;
  });
  return entry == std::end(kEntries) ? nullptr : entry;
}

class Flash final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "flash"; }

  std::optional<std::string> why_not(const AttentionProblem& p,
                                     Direction direction) const override {
    if (p.q.device.type != DeviceType::cuda) return "runs on GPUs only";
    if (p.q.dtype != DType::bf16 && p.q.dtype != DType::f16)
      return fmt::format("type {}, takes bf16 and f16 on GPUs", name_of(p.q.dtype));
    if (find(p) == nullptr)
      return fmt::format(
          "{} with {} is not in this build (QUIETFORMER_ATTENTION_INSTANCES={}, full has it)",
          name_of(p.score), p.normalizer, kInstances);
    const bool forward = direction == Direction::forward;
    const std::int64_t most =
        forward ? *std::max_element(std::begin(kFlashDims), std::end(kFlashDims))
                : *std::max_element(std::begin(kBackwardDims), std::end(kBackwardDims));
    for (const auto& [name, dim] : {std::pair{"D", p.q.shape[3]}, {"Dv", p.v.shape[3]}})
      if (dim > most) return fmt::format("head dim {} = {}, takes at most {}", name, dim, most);
    if (p.groups != 1) return fmt::format("groups = {}, takes 1 on GPUs", p.groups);
    // Positions and blocks are counted in 32 bits.
    const std::int64_t rows =
        p.q.shape[0] * p.heads() * (std::max(p.q.shape[2], p.k.shape[2]) / 32 + p.batch());
    if (std::max(p.q.shape[2], p.k.shape[2]) > 1 << 30 || rows > 1 << 30)
      return "more rows than 32 bits count";
    return forward ? option_not_taken(p) : std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    if (direction == Direction::backward) return FlashBackwardCall(ctx, problem).bytes;
    if (info_of(problem.score).operands != Operands::unit_groups) return 0;
    const Shape& k = problem.k.shape;
    return k[0] * k[1] * k[2] * size_of(DType::f32);
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    QF_EXPECTS(ctx.device == problem.q.device);
    if (problem.o.count() != 0) find(problem)->forward(ctx, problem);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    QF_EXPECTS(ctx.device == problem.q.device);
    find(problem)->backward(ctx, problem);
  }

 private:
  static std::optional<std::string> option_not_taken(const AttentionProblem& p) {
    const std::pair<std::string_view, bool> options[] = {
        {"mask", present(p.mask)},
        {"key_padding", present(p.key_padding)},
        {"bias", present(p.bias)},
        {"alibi_slopes", present(p.alibi_slopes)},
        {"dropout", p.dropout.probability > 0},
        {"packed sequences", p.packed()},
        {"total_attention", present(p.total_attention)},
        {"weights", present(p.weights)},
    };
    for (const auto& [name, asked] : options)
      if (asked) return fmt::format("does not take {} on GPUs", name);
    return std::nullopt;
  }
};

float* output(const Tensor& tensor) {
  return tensor ? tensor.as<float>() : nullptr;
}

}  // namespace

RowTensor::RowTensor(const Tensor& tensor)
    : data(tensor.data),
      batch(tensor.stride[0]),
      head(tensor.stride[1]),
      row(tensor.stride[2]),
      aligned(reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && batch % 8 == 0 && head % 8 == 0 &&
              row % 8 == 0 && tensor.shape[3] % 8 == 0) {}

FlashForwardCall::FlashForwardCall(const AttentionProblem& p)
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
      scale(static_cast<float>(std::abs(p.scale))),
      negative(p.scale < 0),
      band(queries, keys, p.causal, p.window),
      threshold(p.threshold),
      inverse_norms(nullptr),
      parameters{},
      defaults{},
      row_state(output(p.row_state)),
      lse(output(p.lse)),
      lse_scores(output(p.lse_scores)),
      sink_mass(output(p.sink_mass)),
      row_sum(output(p.row_sum)) {
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
