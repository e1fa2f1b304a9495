// Optimizers: one fused pass over all parameters, threaded on the CPU, one launch on a GPU.
//
// A rule is a header in optim/rules/ that holds the arithmetic of one element:
//
//   struct Rule {
//     static constexpr std::array<std::string_view, K> kState{...};   names of its state tensors
//     template <class T> struct Update {
//       QF_HOST_DEVICE Update(const RuleConstants&, double lr, double step, double weight_decay);
//       QF_HOST_DEVICE void operator()(T& value, T grad, T& state_0, ...) const;   K states
//     };
//   };
//
// in namespace quietformer::rules::NAME. The list in optim/rules/CMakeLists.txt is the only other
// place that names it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "optim/config.h"
#include "optim/step_state.h"

namespace quietformer {

/// A tensor of the optimizer that a checkpoint stores: name "optimizer/m/blocks.0.norm1.weight",
/// shape and type of its parameter's master.
struct StateTensor {
  std::string name;
  Tensor tensor;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates every master from its gradient times `grad_scale` (the clip's scale). `step` counts
  /// from 0; parameters with Decay::yes get the config's weight decay. Gradients stay as they are.
  /// Bitwise independent of threads; no allocation. ctx.device is the parameters'; on a GPU this
  /// does not wait.
  /// In bf16 and f16 the same pass writes the values, rounded.
  virtual void step(const Context& ctx, double lr, std::int64_t step, double grad_scale) = 0;

  /// The same on a GPU with the numbers of `state`, which GradientClip::measure() completed: the
  /// step's learning rate, number less skipped steps, and scale. Gradients that are not finite
  /// change nothing but the state, whose loss scale this also moves on. The host may run ahead.
  virtual void step(const Context& ctx, StepState& state) = 0;

  /// Everything that must survive a resume, zero at first; the checkpoint reads and writes it.
  const std::vector<StateTensor>& state() const { return state_; }
  std::int64_t state_bytes() const;

 protected:
  std::vector<StateTensor> state_;
};

/// The rule names of this build, in the order of optim/rules/CMakeLists.txt.
const std::vector<std::string_view>& optimizer_rules();

/// The optimizer `config.type` for these (committed) parameters, which must outlive it. `config` is
/// valid (OptimConfig::validate).
std::unique_ptr<Optimizer> make_optimizer(const OptimConfig& config,
                                          const ParameterList& parameters);

}  // namespace quietformer
