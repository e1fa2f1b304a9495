// 20 optimizer steps of a tiny GPT-2 with softmax_1 against PyTorch in float64: losses, gradient
// norms, learning rates and final weights, from the safetensors file up to the update.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "layers/gpt.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "tests/support/fixtures.h"
#include "tests/support/hf.h"
#include "tests/support/safetensors.h"
#include "tests/support/tensors.h"
#include "train/hf/import.h"

namespace quietformer::test {

using nlohmann::json;

/// From the host to any device.
inline void copy_any(const Tensor& to, const Tensor& from) {
  if (to.device.type == DeviceType::cuda) return cuda::copy(to, from);
  std::memcpy(to.data, from.data, std::size_t(to.bytes()));
}

inline void copy_micro_batch(const SafetensorsFile& file, const std::string& name,
                             const Tensor& inputs, const Tensor& targets) {
  const OwnedTensor ids = file.read(name);
  const OwnedTensor in(DType::i32, inputs.shape), target(DType::i32, targets.shape);
  const std::int64_t rows = ids.view().shape[0], length = ids.view().shape[1];
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t t = 0; t + 1 < length; ++t) {
      const std::int64_t* row = ids.as<std::int64_t>() + r * length;
      in.as<std::int32_t>()[r * (length - 1) + t] = std::int32_t(row[t]);
      target.as<std::int32_t>()[r * (length - 1) + t] = std::int32_t(row[t + 1]);
    }
  copy_any(inputs, in), copy_any(targets, target);
}

inline void expect_final_weights(const ModelConfig& model, const ParameterList& parameters,
                                 const SafetensorsFile& file) {
  for (const Parameter& p : parameters.all()) {
    const OwnedTensor want =
        in_our_layout(kHfGpt2, model, p.name, p.shape,
                      [&](const std::string& name) { return file.read("final/" + name); });
    ASSERT_TRUE(want.view()) << p.name;
    const OwnedTensor got = copy_to({}, p.value);
    double worst = 0;
    for (std::int64_t i = 0; i < want.view().count(); ++i)
      worst = std::max(worst, std::abs(get(got, i) - get(want, i)));
    EXPECT_LE(worst, 2e-5) << p.name;
  }
}

template <class T>
void run_trace(Device device) {
  const std::string folder = fixtures_folder() + "/train-trace";
  std::ifstream trace_file(folder + "/trace.json");
  ASSERT_TRUE(trace_file) << folder;
  const json trace = json::parse(trace_file);
  const SafetensorsFile file(folder + "/trace.safetensors");
  const std::size_t steps = trace["steps"].size();
  ASSERT_GT(steps, 0u);
  std::cout << "fixtures: " << steps << " cases from " << folder << std::endl;

  const ModelSource source = open_hf_model(folder);
  const ModelConfig& model = source.config.model;
  AttentionConfig attention = source.config.attention;
  attention.n = HeadParameterConfig::fixed(trace["softmax_n"]);
  ParameterList parameters(dtype_of<T>(), device);
  Gpt gpt(model, attention, parameters);
  const OwnedTensor first = file.read("step0/micro0");
  const BatchShape shape{first.view().shape[0], first.view().shape[1] - 1};
  Arena arena("activations", device);
  Context ctx;
  ctx.device = device;
  ctx.threads = 2;
  ctx.mode = Mode::train;
  const Slot inputs = arena.declare("inputs", DType::i32, {shape.batch, shape.tokens});
  const Slot targets = arena.declare("targets", DType::i32, {shape.batch, shape.tokens});
  gpt.declare(ctx, arena, shape, Purpose::training);
  parameters.commit();
  arena.commit();
  EXPECT_TRUE(fill_parameters(ctx, source, parameters).empty());

  OptimConfig optim;
  double highest = 0;
  for (const json& step : trace["steps"]) highest = std::max(highest, step["lr"].get<double>());
  optim.lr = highest;
  optim.betas = trace["betas"];
  optim.eps = trace["eps"];
  optim.weight_decay = 0.1;
  optim.clip = trace["clip"];
  optim.schedule = {"cosine", 5, 0.1};
  const Schedule schedule(optim, std::int64_t(steps));
  const auto optimizer = make_optimizer(optim, parameters);
  GradientClip clip(parameters, optim.clip);
  const int micro = trace["accumulation"];
  for (std::size_t s = 0; s < steps; ++s) {
    const json& want = trace["steps"][s];
    double loss = 0;
    parameters.zero_grad();
    for (int a = 0; a < micro; ++a) {
      copy_micro_batch(file, "step" + std::to_string(s) + "/micro" + std::to_string(a), inputs,
                       targets);
      gpt.forward_loss(ctx, {inputs, targets});
      loss += copy_to({}, gpt.loss()).as<double>()[0] / micro;
      gpt.backward(ctx, 1.0 / micro);
    }
    const ClipResult clipped = clip.measure(ctx);
    const double lr = schedule.lr(std::int64_t(s));
    EXPECT_NEAR(lr, want["lr"].get<double>(), 1e-15) << "step " << s;
    EXPECT_NEAR(loss, want["loss"].get<double>(), 1e-5 * want["loss"].get<double>())
        << "step " << s;
    EXPECT_NEAR(clipped.norm, want["grad_norm"].get<double>(),
                1e-5 * want["grad_norm"].get<double>())
        << "step " << s;
    optimizer->step(ctx, lr, std::int64_t(s), clipped.scale);
  }
  expect_final_weights(model, parameters, file);
}

}  // namespace quietformer::test
