// What `quietformer quantize` says: for programs and for people.
//
//   {"checkpoint": file, "step": n, "device": text, "data": path, "split": name, "tokens":
//   predicted,
//    "calibration": {"data": path, "split": name, "batches": n, "tokens": n},
//    "schemes": [{"scheme": "W8A8",
//      "weights": {"bits": 8, "per": "tensor"|"channel", "range": "minmax"|"mse"},
//      "activations": {"bits": 8, "range": "minmax"|"percentile"|"mse", "momentum": m,
//      "percentile": p}, "loss": {"float": nats, "quantized": nats, "gap": nats}, "bits_per_byte":
//      {"float": x, "quantized": y, "gap": y - x},        (where bytes are known) "leave_one_out":
//      {"tokens": n, "gap": nats},                        (unless switched off) "sites": [{"name",
//      "low", "high", "mse", "gap_without": nats, "contribution": nats}]}]}
//
// momentum and percentile are there where they were used. A number that is not finite is null.
#pragma once

#include <string>

#include "train/quantize.h"

namespace quietformer {

struct QuantizationReport {
  std::string checkpoint, device;
  std::int64_t step = 0;
  const EvaluationText* text = nullptr;
  std::string calibration_path, calibration_split;
  const QuantizationOptions* options = nullptr;
  const QuantizationResult* result = nullptr;
};

std::string quantization_json(const QuantizationReport& report);

/// A row per scheme, and for each of them its sites, at most `most` of them.
std::string quantization_table(const QuantizationReport& report, std::size_t most = 20);

}  // namespace quietformer
