// Logits, loss, hidden states and every gradient of transformers' GPT-2 with softmax_n
// (tests/fixtures/README.md), in fp32 and fp64, for every folder that holds a gpt2 model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "layers/gpt.h"
#include "layers/norm.h"
#include "tests/support/fixtures.h"
#include "tests/support/hf.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "train/hf/import.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kActivations = 2e-5, kGradients = 1e-4, kSmallGradient = 1e-3, kLoss = 1e-5;

OwnedTensor read(const SafetensorsReader& file, const std::string& name, DType dtype) {
  const SafetensorsEntry& entry = file.require(name);
  OwnedTensor tensor(dtype, file.shape(entry));
  file.read(entry, tensor);
  return tensor;
}

OwnedTensor read_tokens(const SafetensorsReader& file, const std::string& name) {
  const OwnedTensor wide = read(file, name, DType::i64);
  OwnedTensor tokens(DType::i32, wide.view().shape);
  for (std::int64_t i = 0; i < wide.view().count(); ++i)
    tokens.as<std::int32_t>()[i] = static_cast<std::int32_t>(wide.as<std::int64_t>()[i]);
  return tokens;
}

// transformers shifts labels inside: position t predicts label t + 1, the last one nothing.
OwnedTensor shifted(const OwnedTensor& labels) {
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
  void record(const Context&, std::string_view, const Tensor& value) override {
    states.push_back(test::copy_of(value));
  }
  std::vector<OwnedTensor> states;

 private:
  std::vector<std::string> names_;
};

class Model {
 public:
  Model(const std::string& folder, DType dtype, double n, Shape tokens) : parameters_(dtype) {
    const ModelSource source = open_hf_model(folder);
    EXPECT_TRUE(source.unused.empty());
    architecture_ = find_hf_architecture(source.architecture);
    AttentionConfig attention = source.config.attention;
    attention.n = HeadParameterConfig::fixed(n);
    gpt_.emplace(source.config.model, attention, parameters_);
    parameters_.commit();
    EXPECT_TRUE(fill_parameters(ctx_, source, parameters_).empty());
    ctx_.threads = 2;
    gpt_->declare(ctx_, arena_, {tokens[0], tokens[1]}, Purpose::training);
    arena_.commit();
    parameters_.zero_grad();
  }
  Gpt& gpt() { return *gpt_; }
  const HfArchitecture& architecture() const { return *architecture_; }
  Context& ctx() { return ctx_; }
  const ParameterList& parameters() const { return parameters_; }
  OwnedTensor final_norm(const Tensor& x) const {
    OwnedTensor y(x.dtype, x.shape);
    const std::int64_t dim = gpt_->config().dim, rows = x.count() / dim;
    const OwnedTensor mean(x.dtype, {rows}), rstd(x.dtype, {rows});
    norm_forward(ctx_, NormKind::layernorm, y.view().reshape({rows, dim}), {mean, rstd},
                 x.reshape({rows, dim}), parameters_.find("norm.weight")->value,
                 parameters_.find("norm.bias")->value, gpt_->config().norm_eps);
    return y;
  }

 private:
  Context ctx_;
  const HfArchitecture* architecture_ = nullptr;
  ParameterList parameters_;
  std::optional<Gpt> gpt_;
  Arena arena_{"test"};
};

void check_gradients(const SafetensorsReader& expected, const std::string& prefix, DType dtype,
                     Model& model) {
  const auto& entries = expected.entries();
  const auto count = std::count_if(entries.begin(), entries.end(), [&](const auto& entry) {
    return entry.name.starts_with(prefix);
  });
  if (count == 0) return;
  const ParameterList& parameters = model.parameters();
  EXPECT_EQ(count, std::ssize(parameters.all()));
  std::vector<OwnedTensor> wanted;
  double largest = 0;
  for (const Parameter& parameter : parameters.all()) {
    wanted.push_back(test::in_our_layout(
        model.architecture(), model.gpt().config(), parameter.name, parameter.shape,
        [&](const std::string& name) { return read(expected, prefix + name, dtype); }));
    ASSERT_TRUE(wanted.back().view()) << parameter.name;
    largest = std::max(largest, test::max_abs(wanted.back()));
  }
  for (std::size_t p = 0; p < wanted.size(); ++p) {
    const std::string& name = parameters.all()[p].name;
    const Tensor got = parameters.all()[p].grad, want = wanted[p];
    ASSERT_TRUE(got.shape == want.shape) << name;
    const double limit = kGradients * std::max(test::max_abs(want), kSmallGradient * largest);
    for (std::int64_t i = 0; i < got.count(); ++i)
      ASSERT_NEAR(test::get(got, i), test::get(want, i), limit) << name << " element " << i;
  }
}

void check_hidden(const SafetensorsReader& expected, const std::string& name, const Model& model,
                  const std::vector<OwnedTensor>& states, DType dtype) {
  for (std::size_t k = 0; k < states.size(); ++k) {
    const std::string hidden = name + "/hidden" + std::to_string(k);
    if (expected.find(hidden) == nullptr) continue;
    const bool last = k + 1 == states.size();  // theirs is after the final norm
    const OwnedTensor got = last ? model.final_norm(states[k]) : test::copy_of(states[k]);
    EXPECT_TRUE(test::close(got, read(expected, hidden, dtype), kActivations)) << hidden;
  }
}

void check_case(const std::string& folder, const std::string& name, double loss, DType dtype) {
  SCOPED_TRACE(folder + " " + name + " " + std::string(name_of(dtype)));
  const SafetensorsReader expected(folder + "/expected.safetensors");
  const OwnedTensor tokens = read_tokens(expected, "in/input_ids");
  const OwnedTensor targets = shifted(read_tokens(expected, "in/labels"));
  Model model(folder, dtype, std::stod(name.substr(1)), tokens.view().shape);
  HiddenStates hidden(model.gpt().config().layers);
  model.ctx().probes = &hidden;

  const Tensor logits = model.gpt().forward(model.ctx(), {tokens});
  EXPECT_TRUE(test::close(logits, read(expected, name + "/logits", dtype), kActivations));
  check_hidden(expected, name, model, hidden.states, dtype);
  model.ctx().probes = nullptr;
  model.gpt().forward_loss(model.ctx(), {tokens, targets});
  EXPECT_NEAR(model.gpt().loss().as<double>()[0], loss, kLoss);
  model.gpt().backward(model.ctx());
  check_gradients(expected, name + "/grad/", dtype, model);
}

TEST(HfFixtures, LogitsLossHiddenStatesAndGradients) {
  const std::string root = test::fixtures_folder();
  ASSERT_TRUE(fs::is_directory(root)) << "no fixtures in " << root;
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string folder = entry.path().string();
    if (!fs::exists(folder + "/config.json") || !fs::exists(folder + "/expected.json")) continue;
    if (json::parse(test::contents_of(folder + "/config.json")).at("model_type") != "gpt2")
      continue;
    const json expected = json::parse(test::contents_of(folder + "/expected.json"));
    for (const auto& [name, values] : expected.items()) {
      for (const DType dtype : {DType::f32, DType::f64})
        check_case(folder, name, values.at("loss").get<double>(), dtype);
      ++cases;
    }
  }
  EXPECT_GT(cases, 0);
  std::printf("fixtures: %d cases from %s\n", cases, root.c_str());
}

}  // namespace
}  // namespace quietformer
