#include "optim/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/check.h"
#include "core/config.h"

namespace quietformer {
namespace {

std::string error_of(const std::function<void(OptimConfig&)>& change) {
  OptimConfig config;
  change(config);
  try {
    config.validate();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(OptimConfig, DefaultsAreValidAndEveryKeyIsRead) {
  EXPECT_EQ(error_of([](OptimConfig&) {}), "");
  const std::string text =
      "type: lion\nlr: 0.0002\nbetas: [0.8, 0.7]\neps: 1e-06\nweight_decay: 0\nclip: 0\n"
      "schedule:\n  type: linear\n  warmup: 3\n  final: 0.5\n";
  const ConfigValue tree = parse_yaml(text, "f.yaml");
  OptimConfig config;
  ConfigReader reader(tree, "optim");
  config.visit(reader);
  reader.finish();
  EXPECT_NO_THROW(config.validate());
  ConfigWriter writer;
  config.visit(writer);
  EXPECT_EQ(to_yaml(writer.root()), text);
}

TEST(OptimConfig, RefusesWhatMakesNoSense) {
  EXPECT_EQ(error_of([](auto& c) { c.type = "adam"; }),
            "optim.type: found 'adam', expected one of adamw, sgd, lion");
  EXPECT_EQ(error_of([](auto& c) { c.lr = -1; }),
            "optim.lr: found -1, expected a number of at least 0");
  EXPECT_EQ(error_of([](auto& c) { c.betas[1] = 1; }),
            "optim.betas: found [0.9, 1], expected two numbers from 0 to below 1");
  EXPECT_EQ(error_of([](auto& c) { c.eps = 0; }),
            "optim.eps: found 0, expected a number of at least 1e-30");
  EXPECT_EQ(error_of([](auto& c) { c.schedule.type = "step"; }),
            "optim.schedule.type: found 'step', expected one of constant, linear, cosine");
  EXPECT_EQ(error_of([](auto& c) { c.schedule.warmup = -1; }),
            "optim.schedule.warmup: found -1, expected a number of steps");
  EXPECT_EQ(error_of([](auto& c) { c.schedule.final = 1.5; }),
            "optim.schedule.final: found 1.5, expected a number from 0 to 1");
  for (double bad : {double(NAN), double(INFINITY), -1e-9}) {
    EXPECT_NE(error_of([&](auto& c) { c.lr = bad; }), "");
    EXPECT_NE(error_of([&](auto& c) { c.betas[0] = bad; }), "");
    EXPECT_NE(error_of([&](auto& c) { c.eps = bad; }), "");
    EXPECT_NE(error_of([&](auto& c) { c.weight_decay = bad; }), "");
    EXPECT_NE(error_of([&](auto& c) { c.clip = bad; }), "");
    EXPECT_NE(error_of([&](auto& c) { c.schedule.final = bad; }), "");
  }
}

}  // namespace
}  // namespace quietformer
