// Probes: named tensor events inside layers, for statistics that do not touch the layer's code.
#pragma once

#include <string_view>

#include "core/tensor.h"

namespace quietformer {

struct AttentionProblem;
struct Context;

/// Receives activations while a forward pass runs. `name` is a path such as
/// "blocks.3.mlp.output"; `value` is valid during the call only and must not be changed.
/// The leading dimension of `value` is the batch: statistics are per sample over the rest.
class ProbeSink {
 public:
  virtual ~ProbeSink() = default;
  virtual void record(const Context& ctx, std::string_view name, const Tensor& value) = 0;
  /// Whether anybody wants this name: lets a layer skip work done only for a probe
  /// (sink mass, row sums).
  virtual bool wants(std::string_view name) const = 0;
  /// What an attention layer, `path`, has just computed: for who wants weights, which hardly any
  /// implementation holds. Inputs are valid during the call and must not be changed.
  virtual void record_attention(const Context&, std::string_view, const AttentionProblem&) {}
};

}  // namespace quietformer
