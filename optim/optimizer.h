// Optimizers: one fused pass over all parameters, threaded on the CPU, one launch on a GPU.
//
// A rule is a header in optim/rules/ that holds the arithmetic of one element:
//
//   struct Rule {
//     static constexpr std::array<std::string_view, K> kState{...};   names of its state tensors
//     template <class T> struct Update {
//       Update(const OptimConfig&, double lr, std::int64_t step, double weight_decay);
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

namespace quietformer {

/// A tensor of the optimizer that a checkpoint stores: name "optimizer/m/blocks.0.norm1.weight",
/// shape and type of its parameter.
struct StateTensor {
  std::string name;
  Tensor tensor;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates every parameter from its gradient times `grad_scale` (the clip's scale). `step` counts
  /// from 0; parameters with Decay::yes get the config's weight decay. Gradients stay as they are.
  /// Bitwise independent of threads; no allocation. ctx.device is the parameters'; on a GPU this
  /// does not wait.
  virtual void step(const Context& ctx, double lr, std::int64_t step, double grad_scale) = 0;

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
