// Surgery on the fixtures' models, and what it does to their loss and sinks.
#include "train/surgery.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/scratch.h"
#include "tests/train/hf_models.h"
#include "train/calibrate.h"
#include "train/convert.h"
#include "train/hf/export.h"

namespace quietformer {
namespace {

using test::architecture_of;
using test::error_of;
using test::expect_contains;
using test::fixture;
using test::logits_of;
using test::model_folders;
using test::open;
using test::put;

SurgeryRequest request(std::vector<std::string> changes, std::string layers = "*") {
  return {std::move(layers), std::move(changes)};
}

TEST(Surgery, WithNZeroReproducesTheSourceBitForBit) {
  for (const std::string& folder : model_folders()) {
    SCOPED_TRACE(folder);
    const std::vector<double> before = logits_of(open(folder));
    for (const char* layers : {"*", "1"}) {
      const test::ScratchFolder scratch;
      ModelSource model = open(folder);
      apply_surgery(model, request({"n=1", "dropout=0.25"}, layers));
      EXPECT_NE(logits_of(model), before);
      apply_surgery(model, request({"normalizer=clipped_softmax", "gamma=-0.5/context"}, layers));
      const std::vector<double> clipped = logits_of(model);
      EXPECT_NE(clipped, before);
      write_native({}, scratch / "clipped.h5", model);
      ModelSource copy = open_model(scratch / "clipped.h5");
      write_hf_directory({}, scratch / "clipped", copy, architecture_of(copy));
      copy = open_model(scratch / "clipped");
      EXPECT_TRUE(copy.config.attention == model.config.attention);
      EXPECT_EQ(logits_of(copy), clipped);
      const SurgeryReport report =
          apply_surgery(model, request({"normalizer=softmax_n", "n=0"}, layers));
      EXPECT_EQ(report.changed.size(), layers[0] == '*' ? 2u : 1u);
      write_native({}, scratch / "model.h5", model);
      const ModelSource native = open_model(scratch / "model.h5");
      EXPECT_TRUE(native.config.attention == model.config.attention);
      EXPECT_EQ(logits_of(native), before);
      // And through transformers' layout, which has no key for it.
      write_hf_directory({}, scratch / "there", native, architecture_of(native));
      EXPECT_TRUE(open_model(scratch / "there").config.attention == model.config.attention);
    }
  }
}

TEST(Surgery, ReportsLayersAndKeepsTheSectionShort) {
  ModelConfig model;
  model.layers = 6;
  AttentionConfig attention;
  attention.n = HeadParameterConfig::fixed(0);
  SurgeryReport report = apply_surgery(model, attention, request({"n=1"}, "1,4-11"));
  EXPECT_EQ(report.changed, (std::vector<std::int64_t>{1, 4, 5}));
  EXPECT_EQ(report.skipped, (std::vector<std::int64_t>{0, 2, 3}));
  ASSERT_EQ(attention.overrides.size(), 1u);
  EXPECT_EQ(attention.overrides[0].layers, "1,4-5");
  EXPECT_EQ(attention.overrides[0].n, HeadParameterConfig::fixed(1));
  EXPECT_EQ(attention.n, HeadParameterConfig::fixed(0));
  report = apply_surgery(model, attention, request({"n=1", "score=cosine"}, "0-2"));
  EXPECT_EQ(report.changed, (std::vector<std::int64_t>{0, 1, 2}));
  report = apply_surgery(model, attention, request({"score=cosine", "n=1.0"}));
  EXPECT_EQ(report.same, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(report.changed, (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_TRUE(attention.overrides.empty());
  report = apply_surgery(model, attention, request({"n=2"}, "6-9"));
  EXPECT_FALSE(report.matched());
  EXPECT_EQ(attention.n, HeadParameterConfig::fixed(1));
}

TEST(Surgery, StartsALearnedSinkWhereAsked) {
  ModelSource model = open(fixture("gpt2-tiny"));
  SurgeryReport report = apply_surgery(model, request({"sink_logit=-10"}, "1"));
  EXPECT_EQ(report.started, std::vector<std::string>{"blocks.1.attention.sink_logit"});
  const LoadedModel loaded = load_model(model);
  const Parameter* sink = loaded.parameters->find("blocks.1.attention.sink_logit");
  ASSERT_NE(sink, nullptr);
  for (int h = 0; h < 4; ++h) EXPECT_FLOAT_EQ(sink->value.get().as<float>()[h], -10);
  EXPECT_EQ(loaded.parameters->find("blocks.0.attention.sink_logit"), nullptr);
  report = apply_surgery(model, request({"n=1"}));
  EXPECT_EQ(report.dropped, std::vector<std::string>{"blocks.1.attention.sink_logit"});
}

// An added gate looks at no token yet: its bias scales every head alike, and a large one leaves the
// model as it was, also in transformers' layout.
TEST(Surgery, AddsAnOpenGate) {
  for (const std::string& folder : model_folders()) {
    SCOPED_TRACE(folder);
    const test::ScratchFolder scratch;
    ModelSource model = open(folder);
    const std::vector<double> before = logits_of(model);
    const SurgeryReport report = apply_surgery(model, request({"gate=head", "gate_bias=40"}, "1"));
    EXPECT_EQ(report.started, (std::vector<std::string>{"blocks.1.attention.gate.weight",
                                                        "blocks.1.attention.gate.bias"}));
    EXPECT_EQ(logits_of(model), before);
    write_native({}, scratch / "model.h5", model);
    write_hf_directory({}, scratch / "there", model, architecture_of(model));
    for (const char* copy : {"model.h5", "there"}) {
      ModelSource again = open_model(scratch / copy);
      EXPECT_EQ(logits_of(again), before);
      EXPECT_EQ(apply_surgery(again, request({"gate=none"})).dropped, report.started);
      EXPECT_EQ(logits_of(again), before);
    }
    ModelSource closed = open(folder);
    apply_surgery(closed, request({"gate=head", "gate_bias=-1"}));
    EXPECT_NE(logits_of(closed), before);
  }
}

TEST(Surgery, RefusesWhatTheWeightsDoNotAllow) {
  const ModelSource source = open(fixture("gpt2-tiny"));
  const auto refusal = [&](std::vector<std::string> changes, const std::string& layers = "*") {
    ModelSource model = source;
    const std::string message =
        error_of([&] { apply_surgery(model, request(std::move(changes), layers)); });
    EXPECT_TRUE(model.config.attention == source.config.attention);
    return message;
  };
  expect_contains(refusal({"normaliser=sigmoid"}), "attention.normaliser: unknown key");
  expect_contains(refusal({"normaliser=sigmoid"}, "7"), "unknown key");
  expect_contains(refusal({"normalizer=softmin"}), "attention.normalizer: ");
  expect_contains(refusal({"n=-1"}), "attention.n: found -1");
  expect_contains(refusal({"n=[1, 2]"}, "0"), "found 2 values, expected 4");
  expect_contains(refusal({"score=piecewise", "threshold=4"}), "model.position: found 'learned'");
  expect_contains(refusal({"causal=false"}), "attention.causal: found false, expected true");
  expect_contains(refusal({"n"}), "--attention: found 'n', expected KEY=VALUE");
  for (const char* layers : {"", "1-", "3-1", "a", "-1", "1,,2", "1;2"})
    expect_contains(refusal({"n=1"}, layers), "--layers: found '");
}

TEST(Surgery, SettlesSchedules) {
  AttentionConfig attention;
  attention.n = HeadParameterConfig::scheduled(0, 2, 100);
  settle_schedules(attention, 0);
  EXPECT_EQ(attention.n, HeadParameterConfig::scheduled(0, 2, 100));
  settle_schedules(attention, 25);
  EXPECT_EQ(attention.n, HeadParameterConfig::scheduled(0.5, 2, 75));
  settle_schedules(attention, 75);
  EXPECT_EQ(attention.n, HeadParameterConfig::fixed(2));
}

// Ids of 16 bits, as token files have them.
std::unique_ptr<TokenSource> tokens_below(std::int64_t vocab, const test::ScratchFolder& scratch) {
  std::string bytes;
  for (std::uint32_t i = 0, x = 1; i < 2000; ++i) {
    x = x * 1664525u + 1013904223u;
    const std::uint32_t id = 5 + (x >> 16) % std::uint32_t(vocab - 5);
    bytes += char(id & 255), bytes += char(id >> 8);
  }
  put(scratch / "tokens.bin", bytes);
  SourceRequest request;
  request.kind = SourceKind::tokens;
  request.path = scratch / "tokens.bin";
  return open_source(request);
}

TEST(Calibrate, MeasuresLossAndTheSinksOfEveryLayer) {
  for (const std::string& folder : model_folders()) {
    SCOPED_TRACE(folder);
    const test::ScratchFolder scratch;
    ModelSource model = open(folder);
    const auto text = tokens_below(model.config.model.vocab, scratch);
    const Calibration before = calibrate(model, *text);
    EXPECT_EQ(before.sink_mass, (std::vector<double>{0, 0}));
    EXPECT_GT(before.targets, 100);
    apply_surgery(model, request({"n=1"}, "1"));
    const Calibration after = calibrate(model, *text);
    EXPECT_EQ(after.sink_mass[0], 0);
    EXPECT_GT(after.sink_mass[1], 0.01);
    EXPECT_LT(after.sink_mass[1], 0.5);
    EXPECT_NE(after.loss, before.loss);
    EXPECT_NEAR(after.loss, before.loss, 0.5 * before.loss);
    // A sink at logit -10 takes next to nothing.
    apply_surgery(model, request({"sink_logit=-10"}));
    EXPECT_NEAR(calibrate(model, *text).loss, before.loss, 1e-3);
    apply_surgery(model, request({"normalizer=sigmoid"}, "0"));
    EXPECT_TRUE(std::isnan(calibrate(model, *text).sink_mass[0]));
  }
}

}  // namespace
}  // namespace quietformer
