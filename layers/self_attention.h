// Self-attention: one packed projection to q, k and v, attention, one projection back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "attention/attention.h"
#include "layers/attention_gate.h"
#include "layers/head_parameters.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/position.h"

namespace quietformer {

/// Rotations that all layers of a model share. With attention.score piecewise, pairs at a distance
/// of at least `threshold` see their keys as if at distance `threshold` exactly: the far queries
/// all sit at position threshold, the far keys all at 0.
struct Rotary {
  Rotary(DType dtype, const ModelConfig& model, const AttentionConfig& attention,
         Device device = {});
  RotaryTable table;
  OwnedTensor near;                // i32 (context): token t at position t
  OwnedTensor far_query, far_key;  // i32 (context), piecewise only
};

/// Slopes of ALiBi (Press, Smith, Lewis, arXiv 2108.12409) for any number of heads: 2^(-8h/H) for
/// h = 1..H when H is a power of two; otherwise those of the next lower power p, then every other
/// one of 2p's, starting with the first. slopes (H), on the host.
void fill_alibi_slopes(const Tensor& slopes);

/// Parameters `path.qkv` (H D + 2 Hk D, C), rows in the order q, k, v, heads one after another;
/// `path.out` (C, H D); with qk_norm `path.q_norm`, `path.k_norm` (D), shared by heads and applied
/// before rotation; learned head parameters (head_parameters.h); with attention.gate head those of
/// the gate, `path.gate` (attention_gate.h). The input must stay unchanged until backward. Probes:
/// path.context (what the out projection reads), path.output, with a gate path.gate (B,T,H), and
/// when wanted path.sink_mass and path.row_sum (B,H,T); record_attention() as `path`.
/// Sites (operand_hook.h): path.q, path.k, path.v, for the far pair path.q2 and path.k2, and
/// path.weights.
class SelfAttention {
 public:
  /// `model` is resolved; `layer` keys the dropout stream; `rotary` is there when model.position is
  /// rotary, and outlives the layer.
  SelfAttention(ParameterList& parameters, const std::string& path, const ModelConfig& model,
                const AttentionConfig& attention, std::uint32_t layer, const Rotary* rotary);
  /// Chooses the implementation (InputError when the one asked for cannot run). `ctx` later runs
  /// with no more threads than now.
  void declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose);
  /// key_padding u8 (B,T), 0: nobody attends to that token; absent: all take part. Stays as it is
  /// until backward; only where attention is not causal.
  void forward(const Context& ctx, const Tensor& y, const Tensor& x,
               const Tensor& key_padding = {});
  void backward(const Context& ctx, const Tensor& dx, const Tensor& dy);
  /// The implementation that attention.implementation came to; after declare().
  std::string_view implementation() const { return implementation_->name(); }

  void set_schedule_step(const Context& ctx, std::int64_t step) {
    head_parameters_.set_schedule_step(ctx, step);
  }
  void set_schedule_step(std::int64_t step) { head_parameters_.set_schedule_step(step); }
  /// Before declare(), as LanguageModel says.
  void set_operand_hook(OperandHook* hook);

 private:
  struct QueryKey {
    Tensor q, k;  // (B,T,H,D), (B,T,Hk,D)
  };
  std::int64_t packed_width() const { return (heads_ + 2 * kv_heads_) * head_dim_; }
  Tensor rows(Memory memory, const Slot& slot, std::int64_t width, BatchShape shape) const;
  QueryKey query_key(const Tensor& rows) const;
  Tensor values(const Tensor& rows) const;
  AttentionProblem problem(Memory memory, BatchShape shape) const;
  void add_gradients(AttentionProblem& p, Memory memory, BatchShape shape) const;
  void add_run_state(AttentionProblem& p, const Context& ctx) const;
  void prepare_query_key(const Context& ctx);
  void prepare_query_key_backward(const Context& ctx);
  void replace_operands(const Context& ctx);
  void replace_weights(const Context& ctx, const AttentionProblem& p);

  std::string path_, context_name_, output_name_, gate_name_, sink_mass_name_, row_sum_name_,
      weights_name_;
  std::int64_t dim_, heads_, kv_heads_, head_dim_;
  std::uint32_t layer_;
  DType dtype_, statistics_dtype_;  // of activations and of row statistics
  Device device_;
  AttentionConfig config_;
  Score score_;
  double scale_;
  bool row_normalised_;
  const Rotary* rotary_;

  Linear qkv_;
  std::optional<Norm> q_norm_, k_norm_;
  HeadParameters head_parameters_;
  std::optional<AttentionGate> gate_;
  Linear out_;
  OperandHook* hook_ = nullptr;
  OwnedTensor alibi_slopes_;  // (H) or empty

  const AttentionImplementation* implementation_ = nullptr;
  Slot qkv_out_, normed_, far_, context_, gated_, row_state_;         // saved
  Slot d_qkv_, d_context_, d_far_, workspace_, sink_mass_, row_sum_;  // shared
  Slot weights_;        // shared, where a hook wants them
  BatchShape shape_;    // of the last forward,
  Tensor key_padding_;  // as this
};

}  // namespace quietformer
