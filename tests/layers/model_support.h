// A small GPT with its memory and a batch, for tests.
#pragma once

#include <memory>
#include <string>

#include "layers/gpt.h"
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

struct TestGpt {
  TestGpt(const ModelConfig& model, const AttentionConfig& attention, DType dtype, BatchShape shape,
          Purpose purpose = Purpose::training, int threads = 1)
      : parameters(dtype), gpt(model, attention, parameters) {
    ctx.threads = threads;
    gpt.declare(ctx, arena, shape, purpose);
    arena.commit();
    parameters.commit();
    parameters.initialise(3);
    tokens = random_tokens({shape.batch, shape.tokens}, model.vocab, 5);
    targets = random_tokens({shape.batch, shape.tokens}, model.vocab, 6);
  }

  double loss() {
    gpt.forward_loss(ctx, tokens, targets);
    return gpt.loss().as<double>()[0];
  }

  Context ctx;
  ParameterList parameters;
  Gpt gpt;
  Arena arena{"activations"};
  OwnedTensor tokens, targets;
};

}  // namespace quietformer::test
