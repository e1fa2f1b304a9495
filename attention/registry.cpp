#include "attention/registry.h"

#include <fmt/format.h>

#include "attention/cuda/flash.h"
#include "attention/cuda/flash_f32.h"
#include "attention/cuda/reference.h"
#include "attention/flash.h"
#include "attention/policies.h"
#include "attention/reference.h"
#include "attention/widen.h"

namespace quietformer {
namespace {

template <class N>
NormalizerInfo info_of() {
  return {N::name, {N::parameters.begin(), N::parameters.end()}, N::row_normalised, N::clips};
}

// Indexed by Score: both follow the list.
#define QF_INFO(word, Type) {Type::name, Type::operands, Type::pairs, &Type::default_scale},
constexpr ScoreInfo kScores[] = {QUIETFORMER_SCORES(QF_INFO)};
#undef QF_INFO

/// One word for the implementations of the CPU and of GPUs, there one for 16 bits and one for wider
/// types: q decides.
class PerDevice final : public AttentionImplementation {
 public:
  PerDevice(const AttentionImplementation& cpu, const AttentionImplementation& gpu_16_bits,
            const AttentionImplementation& gpu)
      : cpu_(cpu), gpu_16_bits_(gpu_16_bits), gpu_(gpu) {
    QF_EXPECTS(cpu.name() == gpu.name() && cpu.name() == gpu_16_bits.name());
  }
  std::string_view name() const override { return cpu_.name(); }
  std::optional<std::string> why_not(const AttentionProblem& problem,
                                     Direction direction) const override {
    return of(problem).why_not(problem, direction);
  }
  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    return of(problem).workspace_bytes(ctx, problem, direction);
  }
  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    of(problem).forward(ctx, problem);
  }
  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    of(problem).backward(ctx, problem);
  }

 private:
  const AttentionImplementation& of(const AttentionProblem& problem) const {
    if (problem.q.device.type == DeviceType::cpu) return cpu_;
    return stored_in_16_bits(problem) ? gpu_16_bits_ : gpu_;
  }
  const AttentionImplementation &cpu_, &gpu_16_bits_, &gpu_;
};

std::string known_scores() {
  std::string names;
  for (const ScoreInfo& score : kScores) names.append(names.empty() ? "" : ", ").append(score.name);
  return names;
}

}  // namespace

const std::vector<NormalizerInfo>& normalizers() {
#define QF_INFO(word, Type) info_of<Type>(),
  static const std::vector<NormalizerInfo> all{QUIETFORMER_NORMALIZERS(QF_INFO)};
#undef QF_INFO
  return all;
}

const NormalizerInfo& find_normalizer(std::string_view name) {
  for (const NormalizerInfo& info : normalizers())
    if (info.name == name) return info;
  std::string known;
  for (const NormalizerInfo& info : normalizers())
    known.append(known.empty() ? "" : ", ").append(info.name);
  throw InputError(
      fmt::format("attention normalizer '{}': unknown, expected one of {}", name, known));
}

const ScoreInfo& info_of(Score score) {
  return kScores[static_cast<int>(score)];
}

std::string_view name_of(Score score) {
  return info_of(score).name;
}

Score find_score(std::string_view name) {
  int index = 0;
  for (const ScoreInfo& score : kScores) {
    if (score.name == name) return static_cast<Score>(index);
    ++index;
  }
  throw InputError(
      fmt::format("attention score '{}': unknown, expected one of {}", name, known_scores()));
}

double default_scale(Score score, std::int64_t head_dim) {
  return info_of(score).default_scale(head_dim);
}

const std::vector<const AttentionImplementation*>& implementations() {
  static const PerDevice flash(flash_implementation(), cuda::flash_implementation(),
                               cuda::flash_f32_implementation()),
      reference(reference_implementation(), cuda::reference_implementation(),
                cuda::reference_implementation());
  static const std::vector<const AttentionImplementation*> all{&flash, &reference};
  return all;
}

const AttentionImplementation& choose(std::string_view name, const AttentionProblem& problem,
                                      Direction direction) {
  std::string reasons;
  for (const AttentionImplementation* implementation : implementations()) {
    if (name != "auto" && name != implementation->name()) continue;
    std::optional<std::string> reason = implementation->why_not(problem, Direction::forward);
    if (!reason && direction == Direction::backward)
      reason = implementation->why_not(problem, Direction::backward);
    if (!reason) return *implementation;
    reasons +=
        fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", implementation->name(), *reason);
  }
  if (!reasons.empty()) throw InputError(fmt::format("attention implementation {}", reasons));
  std::string known = "auto";
  for (const AttentionImplementation* implementation : implementations())
    known.append(", ").append(implementation->name());
  throw InputError(
      fmt::format("attention implementation '{}': unknown, expected one of {}", name, known));
}

}  // namespace quietformer
