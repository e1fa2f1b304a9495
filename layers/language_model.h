// What training, evaluation, generation, statistics and conversion know of a model: token ids in,
// logits over a vocabulary and their loss out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "layers/block_stack.h"
#include "layers/vocabulary_head.h"

namespace quietformer {

/// B sequences of T tokens, on the model's device.
struct TokenBatch {
  Tensor tokens;         // i32 (B,T), ids of the vocabulary
  Tensor targets{};      // i32 (B,T), negative: ignored; forward() does not look at them
  Tensor token_types{};  // i32 (B,T), encoders only; absent: all 0
  Tensor valid{};  // u8 (B,T), encoders only: 0 is padding, which no token attends to; absent:
                   // there is none
};

/// Embedding, blocks, what reads the stream after them, head. A model's constructor registers its
/// parameters in that order: its own, add_blocks(), its own, add_head().
/// Probes: "embedding" (before dropout) and those of the blocks, "blocks.N...".
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  /// Once, before the arena is committed: reserves memory for batches up to `shape` (tokens at most
  /// model.context). `ctx` later runs with no more threads than now.
  void declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose);

  /// A batch up to the declared sizes -> logits (B,T,V), or (B,1,V) of the last tokens. They live
  /// in the arena until the next forward or backward. On a GPU rows of logits may lie further apart
  /// than V. InputError for an id outside the vocabulary (on a GPU: NaN).
  Tensor forward(const Context& ctx, const TokenBatch& batch, LogitRows rows = LogitRows::all);

  /// forward() and the cross-entropy of the targets, left in loss().
  void forward_loss(const Context& ctx, const TokenBatch& batch);
  /// f64 (2): mean over valid targets in nats, and their number. In the arena: reading it waits for
  /// the device, forward_loss() does not.
  Tensor loss() const { return head_->loss(); }
  /// Loss of every target, (B,T) of the last forward_loss(), 0 where ignored.
  Tensor token_losses() const { return head_->token_losses(); }

  /// One micro-batch of training: forward_loss() and backward() with scale.scale times, on a GPU,
  /// scale.dynamic (f32 (1) there, or absent), and in one pass over the logits.
  void forward_backward(const Context& ctx, const TokenBatch& batch, const LossScale& scale);

  /// After forward_loss() in an arena declared for training: adds loss_scale times the gradient of
  /// loss()[0] to the parameters' gradients. Overwrites the logits. The batch must be as in
  /// forward_loss(), and ctx's mode and random state too.
  void backward(const Context& ctx, double loss_scale = 1);

  /// Moves scheduled attention parameters (n, sigmoid_bias) to optimizer step `step`, in the order
  /// of ctx.stream's work; without a context waits for the whole GPU.
  void set_schedule_step(const Context& ctx, std::int64_t step);
  void set_schedule_step(std::int64_t step);

  /// Before declare(): what all products read goes through `hook`, which outlives its use; null:
  /// none. A hook that replaces another one wants no more weights of attention than that.
  void set_operand_hook(OperandHook* hook);
  /// Name of the parameter that the vocabulary's product reads; the token embedding when tied.
  const std::string& head_weight() const { return head_->weight().name; }

  const ModelConfig& config() const { return model_; }  // resolved
  /// The implementation of attention that all blocks run; after declare().
  std::string_view attention_implementation() const { return blocks_->attention_implementation(); }

 protected:
  /// Validates both, before anything is registered; takes derived values resolved or not.
  LanguageModel(const ModelConfig& model, const AttentionConfig& attention);

  void add_blocks(ParameterList& parameters, const AttentionConfig& attention);
  /// `weight` (V,C) is the head's own or the token embedding; `bias` (V), or one without slots.
  void add_head(const ParameterList& parameters, const Parameter& weight,
                const Parameter& bias = {});

 private:
  /// Memory besides that of blocks and head.
  virtual void declare_ends(Arena& arena, BatchShape shape, Purpose purpose) = 0;
  /// The residual stream's start x (B,T,C), before dropout. The batch's tensors stay as they are
  /// until backward.
  virtual void embed(const Context& ctx, const Tensor& x, const TokenBatch& batch) = 0;
  /// `gradient` is that of x, and may be overwritten.
  virtual void embed_backward(const Context& ctx, const Tensor& gradient) = 0;
  /// Between blocks and head: what the head reads, for their output x. By default x itself.
  virtual Tensor read_out(const Context& ctx, const Tensor& x);
  /// Calls head.backward() and writes the gradient of read_out()'s x.
  virtual void read_out_backward(const Context& ctx, VocabularyHead& head, const Tensor& d_x);

  /// Of what read_out() consists of.
  virtual void set_read_out_hook(OperandHook*) {}

  Tensor features(const Context& ctx, const TokenBatch& batch);
  void backward_from_logits(const Context& ctx);

  ModelConfig model_;
  std::string embedding_name_ = "embedding";
  Dropout dropout_;
  std::optional<BlockStack> blocks_;
  std::optional<VocabularyHead> head_;
  BatchShape declared_, shape_;  // at most, and of the last forward
  Purpose purpose_ = Purpose::inference;
};

/// The model that model.type names.
std::unique_ptr<LanguageModel> make_model(const ModelConfig& model,
                                          const AttentionConfig& attention,
                                          ParameterList& parameters);

}  // namespace quietformer
