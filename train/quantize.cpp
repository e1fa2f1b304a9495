#include "train/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "analysis/moments.h"
#include "core/check.h"
#include "core/cuda/memory.h"
#include "data/windows.h"
#include "train/evaluate.h"

namespace quietformer {
namespace {

ValueRange range_of(const ValueDistribution& values, const QuantizationOptions& options, int bits) {
  switch (options.range) {
    case RangeMethod::percentile:
      return values.percentiles(options.percentile / 100);
    case RangeMethod::mse:
      return values.least_squares(bits);
    case RangeMethod::minmax:
      return options.momentum > 0 ? values.running_extremes(options.momentum) : values.extremes();
  }
  QF_EXPECTS(false);
  return {};
}

/// Contiguous, on any device; waits.
void copy(const Tensor& to, const Tensor& from) {
  if (to.device.type == DeviceType::cuda || from.device.type == DeviceType::cuda)
    return cuda::copy(to, from);
  std::memcpy(to.data, from.data, static_cast<std::size_t>(from.bytes()));
}

/// A weight as it was trained and as the scheme at hand rounds it, on the host.
struct Weight {
  Tensor parameter;
  OwnedTensor original, rounded;
};

/// Something that is rounded, or, for leave-one-out, not.
struct Site {
  QuantizedSite result;
  Grid grid;                 // of an operand
  Weight* weight = nullptr;  // or this
};

class Study {
 public:
  Study(LoadedModel& loaded, const EvaluationText& text, const EvaluationText& calibration,
        const Span& span, const QuantizationOptions& options);
  ~Study();
  Study(const Study&) = delete;
  Study& operator=(const Study&) = delete;

  QuantizationResult run();

 private:
  void calibrate();
  SchemeResult run(const QuantizationScheme& scheme, double part_float_loss);
  std::vector<Site> sites_of(const QuantizationScheme& scheme);
  Site weight_site(const std::string& name, int bits);
  void round(const Site& site);
  void leave(const Site& site);
  Windows windows(std::int64_t limit) const;
  Evaluation evaluate_on(const Windows& windows);

  LanguageModel& model_;
  const ParameterList& parameters_;
  const Context ctx_;
  const EvaluationText& text_;
  const EvaluationText& calibration_;
  const QuantizationOptions& options_;
  std::int64_t context_, batch_, calibration_rows_ = 0, calibration_batches_ = 0;
  Span calibration_span_;  // of whole windows
  Arena arena_, calibration_arena_;
  std::optional<BatchFeed> feed_, calibration_feed_;
  Calibrator calibrator_;
  FakeQuantizer quantizer_;
  std::map<std::string, Weight> weights_;
  QuantizationResult result_;
};

BatchFeed::Padding padding_of(const EvaluationText& text) {
  return text.masking ? BatchFeed::Padding::possible : BatchFeed::Padding::none;
}

const Masking* masking_in(const EvaluationText& text) {
  return text.masking ? &*text.masking : nullptr;
}

Study::Study(LoadedModel& loaded, const EvaluationText& text, const EvaluationText& calibration,
             const Span& span, const QuantizationOptions& options)
    : model_(*loaded.model),
      parameters_(*loaded.parameters),
      ctx_(context_for(loaded.placement)),
      text_(text),
      calibration_(calibration),
      options_(options),
      context_(loaded.config.model.context),
      batch_(std::min<std::int64_t>(loaded.config.train.batch, 16)),
      arena_("activations", ctx_.device),
      calibration_arena_("calibration batches", ctx_.device),
      calibrator_(options.sites, options.calibration_batches),
      quantizer_(options.sites) {
  const std::int64_t windows = (span.size - 1) / context_;
  if (windows < 1)
    throw InputError(fmt::format("{}: {} tokens to calibrate on, expected {} or more",
                                 calibration.path, span.size, context_ + 1));
  // No padding: it would count.
  calibration_span_ = {span.begin, windows * context_ + 1};
  calibration_rows_ = std::min(batch_, windows);
  calibration_batches_ = std::min(options.calibration_batches, windows / calibration_rows_);
  feed_.emplace(arena_, Shape{batch_, context_}, ctx_.device, padding_of(text));
  calibration_feed_.emplace(calibration_arena_, Shape{calibration_rows_, context_}, ctx_.device,
                            padding_of(calibration));
  model_.set_operand_hook(&quantizer_);
  model_.declare(ctx_, arena_, {batch_, context_}, Purpose::inference);
  arena_.commit();
  calibration_arena_.commit();
}

Study::~Study() {
  model_.set_operand_hook(nullptr);
}

/// Of the text: `limit` batches, or all that options.batches allows.
Windows Study::windows(std::int64_t limit) const {
  const std::int64_t most = options_.batches;
  if (limit == 0 || (most > 0 && most < limit)) limit = most;
  return Windows(*text_.source, text_.span, context_, batch_, limit);
}

Evaluation Study::evaluate_on(const Windows& windows) {
  return evaluate(ctx_, model_, windows, *feed_, nullptr, masking_in(text_));
}

void Study::calibrate() {
  const Windows windows(*calibration_.source, calibration_span_, context_, calibration_rows_,
                        calibration_batches_);
  model_.set_operand_hook(&calibrator_);
  evaluate(ctx_, model_, windows, *calibration_feed_, nullptr, masking_in(calibration_));
  model_.set_operand_hook(&quantizer_);
  result_.calibration_batches = windows.batches();
  result_.calibration_tokens = windows.windows() * context_;
}

Site Study::weight_site(const std::string& name, int bits) {
  const Parameter* parameter = parameters_.find(name);
  QF_EXPECTS(parameter != nullptr);
  Weight& weight = weights_[name];
  if (!weight.original.view()) {
    weight.parameter = parameter->value;
    weight.original = OwnedTensor(weight.parameter.dtype, weight.parameter.shape);
    copy(weight.original, weight.parameter);
    Context host = ctx_;
    host.device = {};
    if (!std::isfinite(moments_of(host, weight.original, {}).max_abs))
      throw RunError(fmt::format("{}: weights are not finite, found NaN or infinity", name));
  }
  QuantizedWeights rounded = quantize_weights(
      ctx_, weight.original, {bits, options_.weight_scales, options_.weight_range});
  weight.rounded = std::move(rounded.values);
  return {{name, rounded.low, rounded.high, rounded.squared_error}, {}, &weight};
}

/// What the scheme rounds, in the order of the model; a weight after what it multiplies.
std::vector<Site> Study::sites_of(const QuantizationScheme& scheme) {
  std::vector<Site> sites;
  for (const std::string& name : calibrator_.sites()) {
    if (scheme.activation_bits < kFloatBits) {
      const ValueDistribution values = calibrator_.distribution(name);
      if (!values.finite())
        throw RunError(fmt::format("{}: activations are not finite, found NaN or infinity", name));
      const ValueRange range = range_of(values, options_, scheme.activation_bits);
      const Grid grid = asymmetric_grid(range.low, range.high, scheme.activation_bits);
      sites.push_back({{name, grid.low(), grid.high(), values.squared_error(grid)}, grid});
    }
    const std::string weight = weight_of(name, model_.head_weight());
    if (!weight.empty() && scheme.weight_bits < kFloatBits)
      sites.push_back(weight_site(weight, scheme.weight_bits));
  }
  return sites;
}

void Study::round(const Site& site) {
  if (site.weight != nullptr)
    copy(site.weight->parameter, site.weight->rounded);
  else
    quantizer_.set(site.result.name, site.grid);
}

void Study::leave(const Site& site) {
  if (site.weight != nullptr)
    copy(site.weight->parameter, site.weight->original);
  else
    quantizer_.leave(site.result.name);
}

SchemeResult Study::run(const QuantizationScheme& scheme, double part_float_loss) {
  SchemeResult result;
  result.scheme = scheme;
  std::vector<Site> sites = sites_of(scheme);
  for (const Site& site : sites) round(site);
  result.loss = evaluate_on(windows(0)).loss;
  if (options_.leave_one_out) {
    const Windows part = windows(options_.site_batches);
    result.part_gap = evaluate_on(part).loss - part_float_loss;
    for (Site& site : sites) {
      leave(site);
      site.result.gap_without = evaluate_on(part).loss - part_float_loss;
      site.result.contribution = result.part_gap - site.result.gap_without;
      round(site);
    }
    std::stable_sort(sites.begin(), sites.end(), [](const Site& a, const Site& b) {
      return a.result.contribution > b.result.contribution;
    });
  }
  for (const Site& site : sites) {
    leave(site);
    result.sites.push_back(site.result);
  }
  return result;
}

QuantizationResult Study::run() {
  calibrate();
  const Evaluation all = evaluate_on(windows(0));
  result_.float_loss = all.loss;
  result_.tokens = all.targets;
  double part_loss = 0;
  if (options_.leave_one_out) {
    const Evaluation part = evaluate_on(windows(options_.site_batches));
    part_loss = part.loss;
    result_.site_tokens = part.targets;
  }
  for (const QuantizationScheme& scheme : options_.schemes)
    result_.schemes.push_back(run(scheme, part_loss));
  return std::move(result_);
}

}  // namespace

QuantizationScheme parse_scheme(const std::string& name, std::string_view what) {
  QuantizationScheme scheme;
  scheme.name = name;
  const char *at = name.data(), *end = at + name.size();
  const auto bits = [&](char letter, int& value) {
    if (at == end || *at != letter) return false;
    const auto [rest, error] = std::from_chars(at + 1, end, value);
    const bool fine = error == std::errc() && value >= kFewestBits && value <= kMostBits;
    at = rest;
    return fine;
  };
  if (!bits('W', scheme.weight_bits) || !bits('A', scheme.activation_bits) || at != end)
    throw InputError(
        fmt::format("{}: found '{}', expected W<bits>A<bits> such as W8A8, bits from "
                    "{} to {} (16: left in float)",
                    what, name, kFewestBits, kMostBits));
  return scheme;
}

LoadedModel load_for_quantization(const std::string& path, const std::string& device,
                                  const SiteSelection& sites) {
  ModelSource source = open_model(path);
  if (source.config.train.dtype != "fp64") source.config.train.dtype = "fp32";
  if (sites.attention) source.config.attention.implementation = "auto";
  return load_model(source, device);
}

QuantizationResult quantize(LoadedModel& model, const EvaluationText& text,
                            const EvaluationText& calibration, const Span& span,
                            const QuantizationOptions& options) {
  return Study(model, text, calibration, span, options).run();
}

}  // namespace quietformer
