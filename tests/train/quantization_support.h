// A small model that has learnt something, and outliers planted in it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "tests/support/tensors.h"
#include "train/model_source.h"
#include "train/quantize.h"
#include "train/trainer.h"

namespace quietformer::test {

/// The parameters of a run of some steps on the bundled text, as a checkpoint would give them.
class Trained {
 public:
  explicit Trained(const std::string& changes = "") {
    config_ = parse_run_config(
        "model: {layers: 2, heads: 2, dim: 32, context: 32, vocab: 256, mlp_dim: 64" + changes +
            "}\ndata: {split: [40000, 1000, 1000]}\noptim: {lr: 5.0e-3, schedule: {warmup: 5}}\n"
            "train: {device: cpu, dtype: fp32, batch: 8, steps: 150, threads: 1}",
        "small");
    static std::map<std::string, Parameters> known;  // trained once for all tests
    const auto [at, is_new] = known.try_emplace(changes);
    if (is_new) at->second = train(config_);
    for (const auto& [name, value] : at->second) parameters_.push_back({name, copy_of(value)});
  }

  Tensor value(const std::string& name) {
    for (const auto& [known, value] : parameters_)
      if (known == name) return value;
    throw std::runtime_error("no " + name);
  }

  /// Makes channel `channel` of a norm's output `factor` times as large and the weights that read
  /// it that much smaller: the same function, and with a power of two the same numbers in it.
  void plant(const std::string& norm, const std::string& linear, std::int64_t channel,
             double factor) {
    for (const std::string part : {".weight", ".bias"}) {
      const Tensor gain = value(norm + part);
      set(gain, channel, get(gain, channel) * factor);
    }
    const Tensor weight = value(linear + ".weight");
    const std::int64_t columns = weight.shape[1];
    for (std::int64_t row = 0; row < weight.shape[0]; ++row)
      set(weight, row * columns + channel, get(weight, row * columns + channel) / factor);
  }

  LoadedModel load(const std::string& device = "cpu") const {
    ModelSource source;
    source.path = "small";
    source.config = config_;
    source.trained_here = true;
    for (const auto& [name, value] : parameters_) {
      const Tensor from = value;
      source.parameters.push_back({name, from.dtype, from.shape, [from](const Context&, void* out) {
                                     std::memcpy(out, from.data, std::size_t(from.bytes()));
                                   }});
    }
    return load_model(source, device);
  }

 private:
  using Parameters = std::vector<std::pair<std::string, OwnedTensor>>;

  static Parameters train(const RunConfig& config) {
    Trainer trainer(config);
    for (std::int64_t step = 0; step < config.train.steps; ++step) trainer.step(nullptr);
    Parameters parameters;
    for (const Parameter& p : trainer.parameters().all())
      parameters.push_back({p.name, copy_of(p.master)});
    return parameters;
  }

  RunConfig config_;
  Parameters parameters_;
};

inline QuantizationOptions options_for(const std::vector<std::string>& schemes) {
  QuantizationOptions options;
  for (const std::string& name : schemes) options.schemes.push_back(parse_scheme(name));
  options.calibration_batches = 4;
  options.batches = 12;
  options.leave_one_out = false;
  return options;
}

/// Of the bundled text what Trained was trained on: there every change of it costs.
inline EvaluationText bundled_text(const LoadedModel& model) {
  TextRequest request;
  request.split = "train";
  return open_text(model, request);
}

inline QuantizationResult quantize(LoadedModel model, const EvaluationText& text,
                                   const QuantizationOptions& options) {
  return quantize(model, text, text, text.train.value_or(text.span), options);
}

}  // namespace quietformer::test
