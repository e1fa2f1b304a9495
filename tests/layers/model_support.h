// A small model with its memory and a batch, for tests.
#pragma once

#include <memory>
#include <string>

#include "layers/language_model.h"
#include "tests/support/tensors.h"

namespace quietformer::test {

inline ModelConfig tiny_model() {
  ModelConfig model;
  model.layers = 2;
  model.heads = 2;
  model.dim = 8;
  model.context = 7;
  model.vocab = 11;
  model.mlp_dim = 12;
  return model;
}

/// Token ids in [0, vocab), a function of the seed alone.
inline OwnedTensor random_tokens(const Shape& shape, std::int64_t vocab, std::uint32_t seed) {
  OwnedTensor tokens(DType::i32, shape);
  const RandomKey key = stream_key(seed, RandomPurpose::sample_position, 0, 0);
  for (std::int64_t i = 0; i < shape.count(); ++i)
    tokens.as<std::int32_t>()[i] =
        static_cast<std::int32_t>(philox(key, static_cast<std::uint32_t>(i), 0, 0, 0).word[0] %
                                  static_cast<std::uint32_t>(vocab));
  return tokens;
}

/// Values away from the special ones that training starts from (gains of 1, biases of 0): every
/// parameter gets noise on its constant, so a term that is left out shows.
inline void scatter(const ParameterList& parameters, double std) {
  std::uint32_t seed = 100;
  for (const Parameter& p : parameters.all())
    fill_normal(p.value.get(), seed++, std,
                p.init.kind == Init::Kind::constant ? p.init.value : 0.0);
}

/// BERT's choices on tiny_model().
inline ModelConfig tiny_bert() {
  ModelConfig model = tiny_model();
  model.type = "bert";
  model.token_types = 2;
  model.mlp = "gelu_erf";
  model.norm_structure = "post";
  model.deepnet = false;
  return model;
}

inline AttentionConfig both_ways() {
  AttentionConfig attention;
  attention.causal = false;
  return attention;
}

/// Marks the last `count` tokens of sequence `row` as padding, which nobody has to guess.
inline void pad(const TokenBatch& batch, std::int64_t row, std::int64_t count,
                std::int64_t padding_token) {
  const std::int64_t length = batch.tokens.shape[1];
  for (std::int64_t i = (row + 1) * length - count; i < (row + 1) * length; ++i) {
    set(batch.tokens, i, double(padding_token));
    set(batch.targets, i, -100);
    set(batch.valid, i, 0);
  }
}

struct TestGpt {
  TestGpt(const ModelConfig& model, const AttentionConfig& attention, DType dtype, BatchShape shape,
          Purpose purpose = Purpose::training, int threads = 1)
      : parameters(dtype),
        model(make_model(model, attention, parameters)),
        gpt(*this->model),
        encoder(is_encoder(model)) {
    ctx.threads = threads;
    gpt.declare(ctx, arena, shape, purpose);
    arena.commit();
    parameters.commit();
    parameters.initialise(3);
    const Shape ids{shape.batch, shape.tokens};
    tokens = random_tokens(ids, model.vocab, 5);
    targets = random_tokens(ids, model.vocab, 6);
    if (!encoder) return;
    if (model.token_types > 0) token_types = random_tokens(ids, model.token_types, 7);
    valid = OwnedTensor(DType::u8, ids);
    fill(valid, 1);
  }

  TokenBatch batch() const { return {tokens, targets, token_types, valid}; }

  double loss() {
    gpt.forward_loss(ctx, batch());
    return gpt.loss().as<double>()[0];
  }

  Context ctx;
  ParameterList parameters;
  std::unique_ptr<LanguageModel> model;
  LanguageModel& gpt;  // the same
  bool encoder;
  Arena arena{"activations"};
  OwnedTensor tokens, targets;
  OwnedTensor token_types, valid;  // encoders
};

}  // namespace quietformer::test
