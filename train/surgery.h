// Surgery: another attention for the weights of a trained model.
//
// Attention is configuration and, where a sink or a bias is learned, one small vector per layer; so
// surgery changes settings, of all layers or of some, and leaves every weight as it is. What it
// changed stands in the configuration, which checkpoints hold, and so survives saving and loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers/model_config.h"
#include "train/model_source.h"

namespace quietformer {

struct SurgeryRequest {
  std::string layers = "*";  // as in attention.overrides (layers/layer_ranges.h)
  /// "key=value" of the section attention, in YAML: "normalizer=softmax_n", "n=1",
  /// "n={from: 0, to: 1, steps: 1000}"; and "sink_logit=X", which is n={learned: true, init: e^X}.
  std::vector<std::string> changes;
};

struct SurgeryReport {
  std::vector<std::int64_t> changed;  // layers whose settings are different now
  std::vector<std::int64_t> same;     // selected, and so already
  std::vector<std::int64_t> skipped;  // not selected
  std::vector<std::string> started;   // parameters that the weights lack, starting as configured
  std::vector<std::string> dropped;   // parameters of the weights that nothing reads any more

  bool matched() const { return !changed.empty() || !same.empty(); }
};

/// Changes the settings of the layers that request.layers selects. InputError, without any change,
/// for an unknown key, a value out of range, and settings that the weights do not allow (piecewise
/// scores without rotary positions). Layers that the model does not have are in no list.
SurgeryReport apply_surgery(const ModelConfig& model, AttentionConfig& attention,
                            const SurgeryRequest& request);

/// The same for a whole model: its parameters afterwards are those of its new configuration.
SurgeryReport apply_surgery(ModelSource& model, const SurgeryRequest& request);

/// Schedules of head parameters as they stand after `steps` optimizer steps: what is left of
/// them, or their end. For weights that go on from there with a count of steps that begins anew.
void settle_schedules(AttentionConfig& attention, std::int64_t steps);

}  // namespace quietformer
