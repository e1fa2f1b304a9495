// A decoder-only language model: tokens in, logits of the next token out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/block.h"
#include "layers/embedding.h"

namespace quietformer {

/// Which rows of logits forward() computes.
enum class LogitRows : std::uint8_t { all, last };

/// Token embedding (+ positions, dropout), blocks, final norm, head without bias. The structure
/// `post` has no final norm: its blocks end in one. Parameters, in order:
///   token_embedding.weight  position_embedding.weight  blocks.N...  norm.weight/bias  head.weight
/// (head.weight only when not tied). model.bias false leaves out the biases of linear layers;
/// layernorm keeps its own.
/// Probes: "embedding" (before dropout) and those of the blocks, "blocks.N...".
class Gpt {
 public:
  /// Validates; takes derived values resolved or not.
  Gpt(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters);
  Gpt(const Gpt&) = delete;  // blocks point to the rotations
  Gpt& operator=(const Gpt&) = delete;

  /// Once, before the arena is committed: reserves memory for batches up to `shape` (tokens at most
  /// model.context). `ctx` later runs with no more threads than now.
  void declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose);

  /// tokens i32 (B,T), up to the declared sizes -> logits (B,T,V), or (B,1,V) of the last tokens.
  /// They live in the arena until the next forward or backward. On a GPU rows of logits may lie
  /// further apart than V. InputError for an id outside the vocabulary (on a GPU: NaN).
  Tensor forward(const Context& ctx, const Tensor& tokens, LogitRows rows = LogitRows::all);

  /// forward() and the cross-entropy of targets i32 (B,T) (negative: ignored), left in loss().
  void forward_loss(const Context& ctx, const Tensor& tokens, const Tensor& targets);
  /// f64 (2): mean over valid targets in nats, and their number. In the arena: reading it waits for
  /// the device, forward_loss() does not.
  Tensor loss() const { return loss_; }
  /// Loss of every target, (B,T) of the last forward_loss(), 0 where ignored.
  Tensor token_losses() const;

  /// One micro-batch of training: forward_loss() and backward() with scale.scale times, on a GPU,
  /// scale.dynamic (f32 (1) there, or absent), and in one pass over the logits.
  struct LossScale {
    double scale = 1;
    Tensor dynamic;
  };
  void forward_backward(const Context& ctx, const Tensor& tokens, const Tensor& targets,
                        const LossScale& scale);

  /// After forward_loss() in an arena declared for training: adds loss_scale times the gradient of
  /// loss()[0] to the parameters' gradients. Overwrites the logits. tokens and targets must be as
  /// in forward_loss(), and ctx's mode and random state too.
  void backward(const Context& ctx, double loss_scale = 1);

  /// Moves scheduled attention parameters (n, sigmoid_bias) to optimizer step `step`, in the order
  /// of ctx.stream's work; without a context waits for the whole GPU.
  void set_schedule_step(const Context& ctx, std::int64_t step);
  void set_schedule_step(std::int64_t step);

  const ModelConfig& config() const { return model_; }
  /// The implementation of attention that all blocks run; after declare().
  std::string_view attention_implementation() const {
    return blocks_.front().attention_implementation();
  }

 private:
  Tensor residual(std::size_t index, BatchShape shape) const;
  FollowingNorm following(std::size_t block, BatchShape shape);
  Tensor padded_head(const Slot& slot) const;
  Tensor padded_logits(std::int64_t rows) const;
  Tensor logits_of(std::int64_t rows) const;
  void backward_from_logits(const Context& ctx);

  ModelConfig model_;
  std::string embedding_name_ = "embedding";
  DType dtype_;
  Dropout dropout_;
  std::optional<Rotary> rotary_;
  Embedding embedding_;
  std::vector<Block> blocks_;
  std::optional<Norm> norm_;
  Parameter head_;  // the token embedding when tied

  std::int64_t columns_;  // of logits: the vocabulary, on a GPU padded
  BatchShape declared_;
  std::vector<Slot> residuals_;  // saved: block inputs, and the last block's output
  Slot normed_, logits_, loss_, row_loss_, row_lse_;
  Slot gradient_, d_input_;    // shared
  Tensor targets_, features_;  // of the last forward
};

}  // namespace quietformer
