// What quantisation does to a model's loss, and which site it blames.
#include "train/quantize.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "tests/support/scratch.h"
#include "tests/train/hf_models.h"
#include "tests/train/quantization_support.h"
#include "train/quantization_report.h"

namespace quietformer {
namespace {

using test::bundled_text;
using test::error_of;
using test::options_for;
using test::Trained;

/// Ids of a small vocabulary.
class Ids final : public TokenSource {
 public:
  Ids(std::int64_t size, std::int64_t vocab) : TokenSource("ids", size, vocab) {}
  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = std::int32_t((begin + i) * (begin + i) * 7 % 89 + 5);
  }
};

EvaluationText ids(const LoadedModel& model, std::int64_t size) {
  EvaluationText text;
  text.source = std::make_unique<Ids>(size, model.config.model.vocab);
  text.span = {0, size};
  text.path = "ids", text.split = "all";
  text.masking = masking_of(model.config);
  return text;
}

double gap(const QuantizationResult& result, std::size_t scheme = 0) {
  return result.schemes.at(scheme).loss - result.float_loss;
}

TEST(Quantize, SchemesByName) {
  const QuantizationScheme scheme = parse_scheme("W4A16");
  EXPECT_EQ(scheme.name, "W4A16");
  EXPECT_EQ(scheme.weight_bits, 4);
  EXPECT_EQ(scheme.activation_bits, 16);
  for (const char* name : {"", "W", "W8", "A8", "A8W8", "w8a8", "W8A8 ", "W8A8A8", "W1A8", "W8A17",
                           "W8A", "W-8A8", "W8.5A8", "W99999999999A8"}) {
    const std::string message = error_of([&] { parse_scheme(name); });
    test::expect_contains(message, "--scheme: found '" + std::string(name) + "', expected W<bits>");
  }
}

TEST(Quantize, PlantedOutliersCostWithEightBitActivationsAloneAndAreFound) {
  Trained trained;
  QuantizationOptions options = options_for({"W8A8", "W8A16"});
  options.leave_one_out = true;
  LoadedModel before = trained.load();
  const EvaluationText text = bundled_text(before);
  const QuantizationResult clean = test::quantize(std::move(before), text, options);
  ASSERT_LT(clean.float_loss, 4);  // it has learnt something: log(256) is 5.5
  EXPECT_LT(std::abs(gap(clean)), 0.01);

  trained.plant("blocks.1.norm2", "blocks.1.mlp.up", 5, 4096);
  const QuantizationResult planted = test::quantize(trained.load(), text, options);
  EXPECT_EQ(planted.float_loss, clean.float_loss);
  EXPECT_EQ(planted.tokens, clean.tokens);
  EXPECT_GT(gap(planted), 0.01);
  EXPECT_GT(gap(planted), 10 * std::abs(gap(clean)));
  EXPECT_LT(std::abs(gap(planted, 1)), 0.1 * gap(planted));
  const SchemeResult& scheme = planted.schemes[0];
  ASSERT_EQ(scheme.sites.size(), 16u);
  EXPECT_EQ(scheme.sites[0].name, "blocks.1.mlp.up.input");
  EXPECT_GT(scheme.sites[0].contribution, 0.8 * scheme.part_gap);
  EXPECT_LT(scheme.sites[1].contribution, 0.2 * scheme.part_gap);
  for (const QuantizedSite& site : scheme.sites) {
    EXPECT_EQ(site.contribution, scheme.part_gap - site.gap_without) << site.name;
    EXPECT_LE(site.low, 0) << site.name;
    EXPECT_GT(site.high, 0) << site.name;
    EXPECT_GT(site.mse, 0) << site.name;
  }
  EXPECT_EQ(planted.schemes[1].sites.size(), 8u);  // of W8A16 weights alone
}

TEST(Quantize, MoreBitsComeCloserToTheFloatLoss) {
  Trained trained(", norm: rmsnorm, mlp: swiglu, kv_heads: 1, bias: false, position: rotary");
  LoadedModel model = trained.load();
  // Evaluated on what it is calibrated on: no bits make up for what is clipped.
  EvaluationText text = bundled_text(model);
  text.span.size = 3 * 8 * 32 + 1;
  text.train.reset();
  QuantizationOptions options = options_for({"W3A3", "W5A5", "W8A8", "W11A11", "W15A15", "W16A16"});
  options.sites = {.head = true, .attention = true};
  const QuantizationResult result = test::quantize(std::move(model), text, options);
  EXPECT_EQ(result.calibration_tokens, result.tokens);
  EXPECT_GT(gap(result, 0), 0.02);
  EXPECT_GT(std::abs(gap(result, 0)), std::abs(gap(result, 1)));
  // Gaps may change their sign on the way, and pass through 0 there; errors of numbers may not.
  for (std::size_t scheme = 1; scheme < 5; ++scheme)
    for (std::size_t site = 0; site < result.schemes[0].sites.size(); ++site)
      EXPECT_LT(result.schemes[scheme].sites[site].mse, result.schemes[scheme - 1].sites[site].mse)
          << result.schemes[scheme].sites[site].name;
  EXPECT_LT(std::abs(gap(result, 2)), 0.01);
  EXPECT_LT(std::abs(gap(result, 3)), 1e-3);
  EXPECT_LT(std::abs(gap(result, 4)), 1e-4);
  EXPECT_EQ(gap(result, 5), 0);
  EXPECT_TRUE(result.schemes[5].sites.empty());
  // Each layer: 5 linear layers of an input and a weight, and q, k, v, weights; the head.
  EXPECT_EQ(result.schemes[0].sites.size(), 2u * (2 * 5 + 4) + 2);
}

TEST(Quantize, ImportedModelsWithEverySite) {
  for (const std::string& folder : test::model_folders()) {
    SCOPED_TRACE(folder);
    ModelSource source = test::open(folder);
    LoadedModel model = load_model(source);
    const EvaluationText text = ids(model, 200);
    QuantizationOptions options = options_for({"W15A15", "W4A4"});
    options.sites = {.head = true, .attention = true};
    options.leave_one_out = true;
    const bool encoder = is_encoder(model.config.model);
    const std::string head = model.model->head_weight();
    const QuantizationResult result = test::quantize(std::move(model), text, options);
    EXPECT_LT(std::abs(gap(result, 0)), 2e-3);
    EXPECT_GT(std::abs(gap(result, 1)), 1e-3);
    std::vector<std::string> names;
    for (const QuantizedSite& site : result.schemes[1].sites) {
      names.push_back(site.name);
      EXPECT_NE(site.contribution, 0) << site.name << " is read by nobody";
    }
    const auto has = [&](const std::string& name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    EXPECT_EQ(has("head.dense.input"), encoder);
    EXPECT_EQ(has("head.dense.weight"), encoder);
    for (const std::string name : {"head.input", "blocks.0.attention.weights",
                                   "blocks.1.attention.k", "blocks.1.mlp.down.input"})
      EXPECT_TRUE(has(name)) << name;
    EXPECT_TRUE(has(head)) << head;
  }
}

TEST(Quantize, BothPairsOfPiecewiseScoresAndGates) {
  RunConfig config = parse_run_config(
      "model: {layers: 1, heads: 2, dim: 16, context: 16, vocab: 256, position: rotary, "
      "qk_norm: rmsnorm}\n"
      "attention: {score: piecewise, threshold: 4, gate: head}",
      "p");
  ParameterList parameters(DType::f32);
  const auto model = make_model(config.model, config.attention, parameters);
  parameters.commit();
  parameters.initialise(3);
  Calibrator calibrator({.head = false, .attention = true}, 1);
  Arena arena("test");
  model->set_operand_hook(&calibrator);
  model->declare({}, arena, {2, 16}, Purpose::inference);
  arena.commit();
  const OwnedTensor tokens(DType::i32, {2, 16});
  for (int i = 0; i < 32; ++i) tokens.as<std::int32_t>()[i] = i * 7;
  const OwnedTensor with = test::copy_of(model->forward({}, {tokens}));
  EXPECT_EQ(
      calibrator.sites(),
      (std::vector<std::string>{
          "blocks.0.attention.qkv.input", "blocks.0.attention.q", "blocks.0.attention.k",
          "blocks.0.attention.v", "blocks.0.attention.q2", "blocks.0.attention.k2",
          "blocks.0.attention.weights", "blocks.0.attention.gate.input",
          "blocks.0.attention.out.input", "blocks.0.mlp.up.input", "blocks.0.mlp.down.input"}));
  EXPECT_EQ(calibrator.distribution("blocks.0.attention.k2").count(), 2 * 16 * 16);
  EXPECT_EQ(calibrator.distribution("blocks.0.attention.weights").count(), 2 * 2 * 16 * 16);
  // Looking changes nothing.
  model->set_operand_hook(nullptr);
  EXPECT_TRUE(test::same_bits(model->forward({}, {tokens}), with));
  // Rounding reaches each.
  for (const std::string& site : calibrator.sites()) {
    FakeQuantizer quantizer({.head = false, .attention = true});
    quantizer.set(site, asymmetric_grid(-0.5, 0.5, 2));
    model->set_operand_hook(&quantizer);
    EXPECT_FALSE(test::same_bits(model->forward({}, {tokens}), with)) << site;
  }
}

TEST(Quantize, RangesAreThoseOfWholeBatches) {
  const Trained trained;
  std::vector<SchemeResult> results;
  for (const std::int64_t batch : {8, 3}) {
    LoadedModel model = trained.load();
    model.config.train.batch = batch;
    const EvaluationText text = bundled_text(model);
    QuantizationOptions options = options_for({"W16A8"});
    options.batches = 1;
    // Three windows, of which padding would make a batch of eight, and less than one more.
    const QuantizationResult result = quantize(model, text, text, {0, 3 * 32 + 20}, options);
    EXPECT_EQ(result.calibration_batches, 1);
    EXPECT_EQ(result.calibration_tokens, 3 * 32);
    results.push_back(result.schemes[0]);
  }
  for (std::size_t i = 0; i < results[0].sites.size(); ++i) {
    EXPECT_EQ(results[0].sites[i].low, results[1].sites[i].low);
    EXPECT_EQ(results[0].sites[i].mse, results[1].sites[i].mse);
  }
}

TEST(Quantize, EachRangeAndScaleIsUsed) {
  const Trained trained;
  LoadedModel model = trained.load();
  const EvaluationText text = bundled_text(model);
  const auto first = [&](const QuantizationOptions& options) {
    return test::quantize(trained.load(), text, options).schemes[0];
  };
  QuantizationOptions options = options_for({"W4A4"});
  options.batches = 1;
  const SchemeResult all = first(options);
  options.momentum = 0.5;
  const SchemeResult running = first(options);
  EXPECT_LT(running.sites[0].high - running.sites[0].low, all.sites[0].high - all.sites[0].low);
  options.range = RangeMethod::percentile, options.percentile = 99;
  const SchemeResult percentile = first(options);
  options.range = RangeMethod::mse, options.weight_range = WeightRange::mse;
  const SchemeResult mse = first(options);
  options.weight_scales = WeightScales::channel;
  const SchemeResult channel = first(options);
  for (std::size_t i = 0; i < all.sites.size(); ++i) {
    SCOPED_TRACE(all.sites[i].name);
    const bool weight = all.sites[i].name.ends_with(".weight");
    EXPECT_LT(mse.sites[i].mse, all.sites[i].mse);
    EXPECT_LE(mse.sites[i].mse, 1.001 * percentile.sites[i].mse);
    EXPECT_LE(mse.sites[i].high - mse.sites[i].low, all.sites[i].high - all.sites[i].low);
    if (weight)
      EXPECT_LT(channel.sites[i].mse, mse.sites[i].mse);
    else
      EXPECT_EQ(channel.sites[i].mse, mse.sites[i].mse);
  }
}

TEST(Quantize, WhatCannotBeDoneIsOneLine) {
  Trained trained;
  LoadedModel model = trained.load();
  const EvaluationText text = bundled_text(model);
  test::expect_contains(error_of([&] {
                          LoadedModel other = trained.load();
                          quantize(other, text, text, {0, 32}, options_for({"W8A8"}));
                        }),
                        "32 tokens to calibrate on, expected 33 or more");
  const Tensor gain = trained.value("blocks.1.norm2.weight");
  const double before = test::get(gain, 3);
  test::set(gain, 3, INFINITY);
  test::expect_contains(
      error_of<RunError>([&] { test::quantize(trained.load(), text, options_for({"W8A8"})); }),
      "blocks.1.mlp.up.input: activations are not finite");
  test::set(gain, 3, before);
  test::set(trained.value("blocks.1.mlp.down.weight"), 3, NAN);
  test::expect_contains(
      error_of<RunError>([&] { test::quantize(trained.load(), text, options_for({"W8A16"})); }),
      "blocks.1.mlp.down.weight: weights are not finite");
}

TEST(Quantize, ReportsAsJsonAndAsATable) {
  const Trained trained;
  LoadedModel model = trained.load();
  const EvaluationText text = bundled_text(model);
  QuantizationOptions options = options_for({"W8A8", "W4A16"});
  options.leave_one_out = true;
  options.batches = options.site_batches = 1;
  const QuantizationResult result = test::quantize(std::move(model), text, options);
  const QuantizationReport report{"small", "cpu", 60, &text, "bundled", "train", &options, &result};
  const auto json = nlohmann::json::parse(quantization_json(report));
  EXPECT_EQ(json.at("checkpoint"), "small");
  EXPECT_EQ(json.at("split"), "train");
  EXPECT_EQ(json.at("tokens"), result.tokens);
  EXPECT_EQ(json.at("calibration").at("tokens"), 4 * 8 * 32);
  const auto& scheme = json.at("schemes").at(0);
  EXPECT_EQ(scheme.at("scheme"), "W8A8");
  EXPECT_EQ(scheme.at("weights").at("bits"), 8);
  EXPECT_EQ(scheme.at("weights").at("per"), "tensor");
  EXPECT_EQ(scheme.at("activations").at("bits"), 8);
  EXPECT_EQ(scheme.at("activations").at("range"), "minmax");
  EXPECT_EQ(scheme.at("loss").at("float"), result.float_loss);
  EXPECT_EQ(scheme.at("loss").at("quantized"), result.schemes[0].loss);
  const auto& bits = scheme.at("bits_per_byte");
  EXPECT_NEAR(bits.at("float").get<double>(), result.float_loss / std::log(2), 1e-12);
  EXPECT_NEAR(bits.at("gap").get<double>(), gap(result) / std::log(2), 1e-12);
  ASSERT_EQ(scheme.at("sites").size(), 16u);
  for (const char* key : {"name", "low", "high", "mse", "gap_without", "contribution"})
    EXPECT_TRUE(scheme.at("sites").at(3).contains(key)) << key;
  const std::string table = quantization_table(report, 5);
  for (const std::string part : {"W8A8 ", "W4A16 ", "8 bits, per tensor", "float", "and 11 more",
                                 "contribution", "bits per byte"})
    test::expect_contains(table, part);
}

}  // namespace
}  // namespace quietformer
