// Simulated post-training quantisation of a model: ranges from calibration batches of the float
// model, then its loss with weights and operands of products rounded (analysis/quantization.h), all
// of them together and all but one.
//
// As in Bondarenko et al., "Quantizable Transformers", arXiv 2306.12929, section 5: symmetric
// weights, asymmetric activations with static ranges, and the product with the vocabulary in float
// unless asked for. What is rounded is what goes into products, as in Dettmers et al., LLM.int8(),
// arXiv 2208.07339; sums, norms, residual stream and softmax stay in float.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "analysis/quantization.h"
#include "train/evaluation_text.h"
#include "train/load_model.h"
#include "train/quantization_hooks.h"

namespace quietformer {

/// Bits of weights and of operands; 16 means a 16-bit float in such names, so they are left alone.
struct QuantizationScheme {
  std::string name;
  int weight_bits = 8, activation_bits = 8;
};
inline constexpr int kFloatBits = 16;

/// "W8A8", "W4A16": bits from 2 to 16. InputError beginning with `what` otherwise.
QuantizationScheme parse_scheme(const std::string& name, std::string_view what = "--scheme");

enum class RangeMethod : std::uint8_t { minmax, percentile, mse };

struct QuantizationOptions {
  std::vector<QuantizationScheme> schemes;
  WeightScales weight_scales = WeightScales::tensor;
  WeightRange weight_range = WeightRange::minmax;
  RangeMethod range = RangeMethod::minmax;
  double momentum = 0;         // of minmax; 0: the extremes of all batches
  double percentile = 99.999;  // above 50, at most 100
  SiteSelection sites;
  std::int64_t calibration_batches = 16;
  std::int64_t batches = 0;  // of evaluation, spread evenly; 0: the whole span
  bool leave_one_out = true;
  std::int64_t site_batches = 8;  // of evaluation for that; 0: `batches`
};

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// A weight or an operand that is rounded. Weights have the name of the parameter.
struct QuantizedSite {
  std::string name;
  double low = 0, high = 0;       // of the grid; of weights with several, the widest
  double mse = 0;                 // mean of (x - x^)^2: of weights, or over the calibration batches
  double gap_without = kUnknown;  // with this site left in float; nats
  double contribution = kUnknown;  // gap over the same tokens less gap_without
};

struct SchemeResult {
  QuantizationScheme scheme;
  double loss = 0;             // nats per token, over the tokens of QuantizationResult::float_loss
  double part_gap = kUnknown;  // over site_tokens
  std::vector<QuantizedSite> sites;  // largest contribution first, or in the model's order
};

struct QuantizationResult {
  double float_loss = 0;                                         // nats per token
  std::int64_t tokens = 0;                                       // predicted
  std::int64_t calibration_batches = 0, calibration_tokens = 0;  // that were read
  std::int64_t site_tokens = 0;  // predicted for leave-one-out; 0 without
  std::vector<SchemeResult> schemes;
};

/// Opens a model in f32, which the rounded numbers need (a bf16 activation has no room for 8 bits
/// and their rounding), or in f64 if it was trained in that; with attention's products in an
/// implementation that exports weights.
LoadedModel load_for_quantization(const std::string& path, const std::string& device,
                                  const SiteSelection& sites);

/// Calibrates on whole windows of `calibration`, spread evenly over `span`, then evaluates on
/// `text`. The model is declared here and its parameters end as they began. InputError for a
/// calibration span shorter than a window; RunError naming the site whose activations are not
/// finite.
QuantizationResult quantize(LoadedModel& model, const EvaluationText& text,
                            const EvaluationText& calibration, const Span& span,
                            const QuantizationOptions& options);

}  // namespace quietformer
