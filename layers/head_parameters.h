// The normaliser's per-head parameters in one attention layer: where their values come from and
// where their gradients go.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "attention/attention.h"
#include "layers/layer.h"
#include "layers/model_config.h"

namespace quietformer {

/// Whether a problem refers to memory, or to shapes only because nothing is committed yet.
enum class Memory : std::uint8_t { shapes, slots };

/// For every parameter of the configured normaliser, on the parameters' device and in the type that
/// goes with sums (a learned one is its master):
///   n             fixed, per head or scheduled: a constant (H); learned: its logarithm is trained
///   sink_logit    n learned: Parameter `path.sink_logit` (H), starting at ln(n.init)
///   sigmoid_bias  fixed, per head, scheduled or -ln(context): a constant (H); learned: Parameter
///                 `path.sigmoid_bias` (H)
///   gamma, zeta   fixed, per head, scheduled, gamma also as a part of 1/context: a constant (H)
class HeadParameters {
 public:
  HeadParameters(ParameterList& parameters, const std::string& path, const ModelConfig& model,
                 const AttentionConfig& attention);
  void declare(Arena& arena, Purpose purpose);

  /// Puts the values in a problem, and where their gradients go.
  void set(AttentionProblem& problem, Memory memory) const;
  void set_gradients(AttentionProblem& problem, Memory memory) const;
  /// After the attention's backward: adds its gradients to the parameters'.
  void accumulate_gradients(const Context& ctx) const;

  /// Moves scheduled values to optimizer step `step`: from + (to - from) min(1, step / steps). In
  /// the order of ctx.stream's work, or waiting for the whole GPU.
  void set_schedule_step(const Context& ctx, std::int64_t step);
  void set_schedule_step(std::int64_t step);

 private:
  struct Entry {
    OwnedTensor constant;           // (H), or
    Parameter parameter;            // (H), or neither: the normaliser's default
    Slot gradient;                  // shared: attention overwrites, parameters accumulate
    HeadParameterConfig scheduled;  // kind scheduled: what `constant` follows
    bool follows_schedule = false;
  };
  void add(int index, const HeadParameterConfig& config, double context, ParameterList& parameters,
           const std::string& name);

  std::array<Entry, kMaxHeadParameters> entries_;
  std::int64_t heads_;
  DType dtype_;  // of values and gradients
  Device device_;
};

}  // namespace quietformer
