// Logits, loss, hidden states and every gradient of transformers' models with softmax_n
// (tests/fixtures/README.md), for every folder that holds a model of a known architecture.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "layers/language_model.h"
#include "layers/norm.h"
#include "tests/support/fixtures.h"
#include "tests/support/hf.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "train/hf/import.h"
#include "train/safetensors.h"

namespace quietformer::test {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kActivations = 2e-5, kGradients = 1e-4, kSmallGradient = 1e-3, kLoss = 1e-5;

inline OwnedTensor read(const SafetensorsReader& file, const std::string& name, DType dtype) {
  const SafetensorsEntry& entry = file.require(name);
  OwnedTensor tensor(dtype, file.shape(entry));
  file.read(entry, tensor);
  return tensor;
}

inline OwnedTensor read_tokens(const SafetensorsReader& file, const std::string& name) {
  const OwnedTensor wide = read(file, name, DType::i64);
  OwnedTensor tokens(DType::i32, wide.view().shape);
  for (std::int64_t i = 0; i < wide.view().count(); ++i)
    tokens.as<std::int32_t>()[i] = static_cast<std::int32_t>(wide.as<std::int64_t>()[i]);
  return tokens;
}

// transformers shifts labels inside: position t predicts label t + 1, the last one nothing.
inline OwnedTensor shifted(const OwnedTensor& labels) {
  OwnedTensor targets(DType::i32, labels.view().shape);
  const std::int64_t length = labels.view().shape[1];
  for (std::int64_t i = 0; i < labels.view().count(); ++i)
    targets.as<std::int32_t>()[i] =
        i % length == length - 1 ? -100 : labels.as<std::int32_t>()[i + 1];
  return targets;
}

// Copies the residual stream as it goes by: the embeddings and each block's output.
class HiddenStates : public ProbeSink {
 public:
  explicit HiddenStates(std::int64_t layers) {
    names_.push_back("embedding");
    for (std::int64_t i = 0; i < layers; ++i)
      names_.push_back("blocks." + std::to_string(i) + ".output");
  }
  bool wants(std::string_view name) const override {
    return std::find(names_.begin(), names_.end(), name) != names_.end();
  }
  void record(const Context& ctx, std::string_view, const Tensor& value) override {
    if (ctx.device.type == DeviceType::cuda) cuda::synchronize(ctx);
    states.push_back(copy_to({}, value));
  }
  std::vector<OwnedTensor> states;

 private:
  std::vector<std::string> names_;
};

class Model {
 public:
  Model(const std::string& folder, DType dtype, Device device, double n, Shape tokens)
      : parameters_(dtype, device), arena_("test", device) {
    ctx_.device = device;
    ctx_.threads = 2;
    const ModelSource source = open_hf_model(folder);
    EXPECT_TRUE(source.unused.empty());
    architecture_ = find_hf_architecture(source.architecture);
    AttentionConfig attention = source.config.attention;
    attention.n = HeadParameterConfig::fixed(n);
    model_ = make_model(source.config.model, attention, parameters_);
    parameters_.commit();
    EXPECT_TRUE(fill_parameters(ctx_, source, parameters_).empty());
    model_->declare(ctx_, arena_, {tokens[0], tokens[1]}, Purpose::training);
    arena_.commit();
    parameters_.zero_grad();
  }
  LanguageModel& model() { return *model_; }
  const ModelConfig& config() const { return model_->config(); }
  const HfArchitecture& architecture() const { return *architecture_; }
  Context& ctx() { return ctx_; }
  const ParameterList& parameters() const { return parameters_; }

  // On the host; on a GPU rows of logits are padded.
  OwnedTensor logits(const TokenBatch& batch) {
    Tensor t = model_->forward(ctx_, batch);
    const std::int64_t vocab = t.shape[2];
    t.shape[2] = t.stride[1];
    return copy_of(copy_to({}, t).view().slice(2, 0, vocab));
  }
  // transformers' last hidden state of GPT-2 is after the final norm; an encoder's blocks end in
  // theirs.
  OwnedTensor after_blocks(const Tensor& x) const {
    const Parameter *weight = parameters_.find("norm.weight"),
                    *bias = parameters_.find("norm.bias");
    if (weight == nullptr) return copy_of(x);
    OwnedTensor y(x.dtype, x.shape);
    const std::int64_t rows = x.count() / config().dim;
    const OwnedTensor gain = copy_to({}, weight->master);
    const OwnedTensor shift = bias == nullptr ? OwnedTensor() : copy_to({}, bias->master);
    norm_forward(Context(), find_norm(config().norm), y.view().reshape({rows, config().dim}), {},
                 x.reshape({rows, config().dim}), gain, shift, config().norm_eps);
    return y;
  }

 private:
  Context ctx_;
  const HfArchitecture* architecture_ = nullptr;
  ParameterList parameters_;
  std::unique_ptr<LanguageModel> model_;
  Arena arena_;
};

// The inputs of a fixture, on a device.
class Inputs {
 public:
  Inputs(const SafetensorsReader& expected, bool encoder, Device device) {
    const OwnedTensor labels = read_tokens(expected, "in/labels");
    tokens_ = to_device(read_tokens(expected, "in/input_ids"), device);
    targets_ = to_device(encoder ? copy_of(labels) : shifted(labels), device);
    if (expected.find("in/token_type_ids") != nullptr)
      types_ = to_device(read_tokens(expected, "in/token_type_ids"), device);
    if (expected.find("in/attention_mask") != nullptr)
      valid_ = to_device(copy_as(read_tokens(expected, "in/attention_mask"), DType::u8), device);
  }
  TokenBatch batch() const { return {tokens_, targets_, types_, valid_}; }

 private:
  OwnedTensor tokens_, targets_, types_, valid_;
};

inline void check_gradients(const SafetensorsReader& expected, const std::string& prefix,
                            DType dtype, Model& model) {
  const auto& entries = expected.entries();
  const auto count = std::count_if(entries.begin(), entries.end(), [&](const auto& entry) {
    return entry.name.starts_with(prefix);
  });
  if (count == 0) return;
  const ParameterList& parameters = model.parameters();
  std::vector<OwnedTensor> wanted;
  std::ptrdiff_t used = 0;
  double largest = 0;
  for (const Parameter& parameter : parameters.all()) {
    wanted.push_back(in_our_layout(model.architecture(), model.config(), parameter.name,
                                   parameter.shape, [&](const std::string& name) {
                                     ++used;
                                     return read(expected, prefix + name, dtype);
                                   }));
    ASSERT_TRUE(wanted.back().view()) << parameter.name;
    largest = std::max(largest, max_abs(wanted.back()));
  }
  EXPECT_EQ(used, count);
  for (std::size_t p = 0; p < wanted.size(); ++p) {
    const std::string& name = parameters.all()[p].name;
    const OwnedTensor got = copy_to({}, parameters.all()[p].grad);
    const Tensor want = wanted[p];
    ASSERT_TRUE(got.view().shape == want.shape) << name;
    const double limit = kGradients * std::max(max_abs(want), kSmallGradient * largest);
    for (std::int64_t i = 0; i < want.count(); ++i)
      ASSERT_NEAR(get(got, i), get(want, i), limit) << name << " element " << i;
  }
}

inline void check_hidden(const SafetensorsReader& expected, const std::string& name,
                         const Model& model, const std::vector<OwnedTensor>& states, DType dtype) {
  EXPECT_EQ(std::ssize(states), model.config().layers + 1);
  for (std::size_t k = 0; k < states.size(); ++k) {
    const std::string hidden = name + "/hidden" + std::to_string(k);
    if (expected.find(hidden) == nullptr) continue;
    const OwnedTensor got =
        k + 1 == states.size() ? model.after_blocks(states[k]) : copy_of(states[k]);
    EXPECT_TRUE(close(got, read(expected, hidden, dtype), kActivations)) << hidden;
  }
}

inline void check_case(const std::string& folder, const std::string& name, double loss, DType dtype,
                       Device device) {
  SCOPED_TRACE(folder + " " + name + " " + std::string(name_of(dtype)));
  const SafetensorsReader expected(folder + "/expected.safetensors");
  const Shape shape = expected.shape(expected.require("in/input_ids"));
  Model model(folder, dtype, device, std::stod(name.substr(1)), shape);
  const Inputs inputs(expected, is_encoder(model.config()), device);
  HiddenStates hidden(model.config().layers);
  model.ctx().probes = &hidden;

  const OwnedTensor logits = model.logits(inputs.batch());
  model.ctx().probes = nullptr;
  model.model().forward_loss(model.ctx(), inputs.batch());
  const double got_loss = get(copy_to({}, model.model().loss()), 0);
  if (dtype != accumulation_dtype(dtype)) {  // 8 or 11 bits: coarsely
    const double noise = dtype == DType::bf16 ? 0.05 : 0.008;
    EXPECT_TRUE(close(logits, read(expected, name + "/logits", DType::f32), noise));
    EXPECT_NEAR(got_loss, loss, 0.2 * noise);
    return;
  }
  EXPECT_TRUE(close(logits, read(expected, name + "/logits", dtype), kActivations));
  check_hidden(expected, name, model, hidden.states, dtype);
  EXPECT_NEAR(got_loss, loss, kLoss);
  model.model().backward(model.ctx());
  check_gradients(expected, name + "/grad/", dtype, model);
}

// Every case of every model that we can read, and how many of each architecture.
inline void check_fixtures(const std::vector<DType>& dtypes, Device device) {
  const std::string root = fixtures_folder();
  ASSERT_TRUE(fs::is_directory(root)) << "no fixtures in " << root;
  std::map<std::string, int> cases;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string folder = entry.path().string();
    if (!fs::exists(folder + "/config.json") || !fs::exists(folder + "/expected.json")) continue;
    const std::string type = json::parse(contents_of(folder + "/config.json")).at("model_type");
    if (find_hf_architecture(type) == nullptr) continue;
    const json expected = json::parse(contents_of(folder + "/expected.json"));
    for (const auto& [name, values] : expected.items()) {
      for (const DType dtype : dtypes)
        check_case(folder, name, values.at("loss").get<double>(), dtype, device);
      ++cases[type];
    }
  }
  EXPECT_FALSE(cases.empty());
  for (const auto& [type, count] : cases)
    std::printf("fixtures: %d cases of %s from %s\n", count, type.c_str(), root.c_str());
}

}  // namespace quietformer::test
