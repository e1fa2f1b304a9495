// What a change of attention does to a model before any training: its loss on a text, and how much
// of their attention the layers leave to the sink.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/source.h"
#include "train/model_source.h"

namespace quietformer {

struct Calibration {
  double loss = 0;           // nats per predicted token
  std::int64_t targets = 0;  // tokens predicted
  /// By layer: mean share of a row's attention that goes to the sink, n / (n + sum exp). NaN where
  /// a normaliser has no such thing (sigmoid).
  std::vector<double> sink_mass;
};

/// Runs the model over `text`: at most `windows` windows of its context, spread evenly. An
/// encoder's tokens are masked as in evaluation. InputError when the text is too short or has ids
/// that the model does not know. `device` as in place_trained().
Calibration calibrate(const ModelSource& model, const TokenSource& text,
                      const std::string& device = "cpu", std::int64_t windows = 64);

}  // namespace quietformer
