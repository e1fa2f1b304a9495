// Token embedding with positions added.
#pragma once

#include <cstdint>
#include <string>

#include "layers/layer.h"
#include "layers/model_config.h"

namespace quietformer {

/// y (B,T,C) = scale * weight[tokens] + positions[t]. tokens i32 (B,T), weight (V,C), positions
/// (at least T, C) or absent. Throws InputError for a token outside [0, V). On a GPU, whose results
/// nobody waits for here, such a token gives a row of NaN instead, and its gradient goes nowhere.
void embedding_forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
                       const Tensor& weight, const Tensor& positions, double scale = 1);

/// d_weight[tokens[b,t]] += scale * dy[b,t], in the order of (b, t) for every row of d_weight;
/// d_positions[t] += sum over b of dy[b,t], where present. Both have the accumulation type of dy.
void embedding_backward(const Context& ctx, const Tensor& d_weight, const Tensor& d_positions,
                        const Tensor& dy, const Tensor& tokens, double scale = 1);

/// Token and position embedding of a model. Parameters `token_embedding.weight` (V,C) and, with
/// learned positions, `position_embedding.weight` (T,C). Sinusoidal positions are a fixed table,
/// and tokens are then multiplied by sqrt(C) as in "Attention is all you need" 3.4.
class Embedding {
 public:
  enum class Positions : std::uint8_t { none, learned, sinusoidal };
  struct Description {
    std::int64_t vocab = 0, dim = 0, context = 0;
    Positions positions = Positions::none;
    Init init;
  };
  Embedding(ParameterList& parameters, const Description& description);

  void forward(const Context& ctx, const Tensor& y, const Tensor& tokens);
  void backward(const Context& ctx, const Tensor& dy);

  /// The token embedding: a tied head reads its value and adds to its gradient.
  const Parameter& tokens() const { return tokens_; }

 private:
  Parameter tokens_, positions_;
  OwnedTensor sinusoids_;  // (T, C), sinusoidal only
  double scale_ = 1;
  Tensor input_;
};

/// What a model's embedding looks like; rotary positions act inside attention.
Embedding::Description embedding_of(const ModelConfig& model);

}  // namespace quietformer
