// What encoders promise besides their gradient (gpt_gradient_test.cpp) and transformers' numbers
// (tests/train/hf_bert_fixtures_test.cpp).
#include <gtest/gtest.h>

#include "core/check.h"
#include "tests/layers/model_support.h"

namespace quietformer {
namespace {

using namespace test;

std::vector<std::string> names_of(const ModelConfig& model) {
  ParameterList parameters(DType::f32);
  const auto bert = make_model(model, both_ways(), parameters);
  std::vector<std::string> names;
  for (const Parameter& p : parameters.all()) names.push_back(p.name);
  return names;
}

TEST(Bert, ParameterNamesAreTheCheckpointsContract) {
  ModelConfig model = tiny_bert();
  model.layers = 1;
  const std::vector<std::string> names{"token_embedding.weight",
                                       "position_embedding.weight",
                                       "token_type_embedding.weight",
                                       "embedding_norm.weight",
                                       "embedding_norm.bias",
                                       "blocks.0.norm1.weight",
                                       "blocks.0.norm1.bias",
                                       "blocks.0.attention.qkv.weight",
                                       "blocks.0.attention.qkv.bias",
                                       "blocks.0.attention.out.weight",
                                       "blocks.0.attention.out.bias",
                                       "blocks.0.norm2.weight",
                                       "blocks.0.norm2.bias",
                                       "blocks.0.mlp.up.weight",
                                       "blocks.0.mlp.up.bias",
                                       "blocks.0.mlp.down.weight",
                                       "blocks.0.mlp.down.bias",
                                       "head.dense.weight",
                                       "head.dense.bias",
                                       "head.norm.weight",
                                       "head.norm.bias",
                                       "head.bias"};
  EXPECT_EQ(names_of(model), names);
  model.type = "roberta", model.padding_token = 1;
  EXPECT_EQ(names_of(model), names);

  ParameterList parameters(DType::f32);
  const auto roberta = make_model(model, both_ways(), parameters);
  parameters.commit();
  EXPECT_EQ(parameters.find("position_embedding.weight")->value.get().shape,
            (Shape{model.context + 2, model.dim}));

  model.tied = false, model.bias = false, model.token_types = 0, model.norm_structure = "pre";
  EXPECT_EQ(names_of(model),
            (std::vector<std::string>{
                "token_embedding.weight", "position_embedding.weight", "embedding_norm.weight",
                "embedding_norm.bias", "blocks.0.norm1.weight", "blocks.0.norm1.bias",
                "blocks.0.attention.qkv.weight", "blocks.0.attention.out.weight",
                "blocks.0.norm2.weight", "blocks.0.norm2.bias", "blocks.0.mlp.up.weight",
                "blocks.0.mlp.down.weight", "norm.weight", "norm.bias", "head.dense.weight",
                "head.norm.weight", "head.norm.bias", "head.weight"}));
}

/// Logits of the first `tokens` tokens of the first sequence.
OwnedTensor first_logits(TestGpt& bert, std::int64_t tokens) {
  const Tensor logits = bert.gpt.forward(bert.ctx, bert.batch());
  return copy_of(logits.slice(0, 0, 1).slice(1, 0, tokens));
}

TEST(Bert, EveryTokenSeesBothSides) {
  TestGpt bert(tiny_bert(), both_ways(), DType::f32, {2, 7});
  scatter(bert.parameters, 0.3);
  const OwnedTensor before = first_logits(bert, 7);
  for (const std::int64_t changed : {0, 6}) {
    const double token = get(bert.tokens, changed);
    set(bert.tokens, changed, token == 0 ? 1 : 0);
    const OwnedTensor after = first_logits(bert, 7);
    for (std::int64_t t = 0; t < 7; ++t)
      EXPECT_FALSE(same_bits(after.view().slice(1, t, 1), before.view().slice(1, t, 1)));
    set(bert.tokens, changed, token);
  }
}

TEST(Bert, PaddingReachesNobody) {
  for (const char* type : {"bert", "roberta"})
    for (const char* implementation : {"flash", "reference"}) {
      ModelConfig model = tiny_bert();
      model.type = type, model.padding_token = 4;
      AttentionConfig attention = both_ways();
      attention.implementation = implementation;
      TestGpt bert(model, attention, DType::f32, {2, 7});
      scatter(bert.parameters, 0.3);
      for (std::int64_t i = 0; i < 14; ++i)  // padding is a place's, not an id's; positions differ
        if (get(bert.tokens, i) == 4) set(bert.tokens, i, 5);
      pad(bert.batch(), 0, 3, 4);
      pad(bert.batch(), 1, 7, 4);  // a sequence of nothing
      bert.loss();
      bert.parameters.zero_grad();
      bert.gpt.backward(bert.ctx);
      const OwnedTensor logits = first_logits(bert, 4), loss = copy_of(bert.gpt.loss());
      const OwnedTensor gradient = copy_of(bert.parameters.find("head.dense.weight")->grad);

      for (const std::int64_t i : {4, 6, 7, 13}) {
        set(bert.tokens, i, 2);
        set(bert.token_types, i, 1 - get(bert.token_types, i));
      }
      EXPECT_TRUE(same_bits(first_logits(bert, 4), logits)) << type << " " << implementation;
      bert.loss();
      bert.parameters.zero_grad();
      bert.gpt.backward(bert.ctx);
      EXPECT_TRUE(same_bits(bert.gpt.loss(), loss));
      EXPECT_TRUE(same_bits(bert.parameters.find("head.dense.weight")->grad, gradient));

      // The sequence without it.
      const OwnedTensor tokens = copy_of(bert.tokens.view().slice(0, 0, 1).slice(1, 0, 4));
      const OwnedTensor types = copy_of(bert.token_types.view().slice(0, 0, 1).slice(1, 0, 4));
      EXPECT_TRUE(close(bert.gpt.forward(bert.ctx, {tokens, {}, types}), logits, 1e-5));
    }
}

TEST(Bert, AbsentTokenTypesAreZero) {
  TestGpt bert(tiny_bert(), both_ways(), DType::f32, {2, 7});
  scatter(bert.parameters, 0.3);
  fill(bert.token_types, 0);
  const OwnedTensor given = copy_of(bert.gpt.forward(bert.ctx, bert.batch()));
  EXPECT_TRUE(same_bits(bert.gpt.forward(bert.ctx, {bert.tokens}), given));
  set(bert.token_types, 3, 2);
  EXPECT_THROW(bert.gpt.forward(bert.ctx, bert.batch()), InputError);
}

TEST(Bert, WithoutDeepNetsConstantsWeightsStartAlike) {
  ModelConfig model = tiny_bert();
  model.dim = 64, model.mlp_dim = 256, model.heads = 4;
  TestGpt bert(model, both_ways(), DType::f32, {1, 4});
  for (const char* name : {"token_type_embedding.weight", "blocks.0.attention.qkv.weight",
                           "blocks.0.attention.out.weight", "blocks.1.mlp.down.weight"}) {
    const Tensor weight = bert.parameters.find(name)->value;
    double squares = 0;
    for (std::int64_t i = 0; i < weight.count(); ++i) squares += get(weight, i) * get(weight, i);
    EXPECT_NEAR(std::sqrt(squares / double(weight.count())), 0.02, 0.002) << name;
  }
}

TEST(Bert, BitwiseIndependentOfThreads) {
  ModelConfig model = tiny_bert();
  model.type = "roberta", model.padding_token = 4, model.context = 64, model.dropout = 0.1;
  std::vector<OwnedTensor> gradients;
  for (const int threads : {1, 3}) {
    TestGpt bert(model, both_ways(), DType::f32, {6, 64}, Purpose::training, threads);
    bert.ctx.mode = Mode::train;
    pad(bert.batch(), 2, 30, 4);
    bert.loss();
    bert.gpt.backward(bert.ctx);
    gradients.push_back(copy_of(bert.parameters.grads().flat(DType::f32)));
  }
  EXPECT_TRUE(same_bits(gradients[0], gradients[1]));
}

}  // namespace
}  // namespace quietformer
