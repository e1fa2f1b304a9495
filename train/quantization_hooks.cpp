#include "train/quantization_hooks.h"

#include "core/check.h"
#include "train/host_view.h"

namespace quietformer {
namespace {

constexpr std::string_view kInput = ".input";
constexpr std::string_view kHead = "head.input";
constexpr std::string_view kWeights = ".attention.weights";

}  // namespace

bool SiteSelection::selected(std::string_view site) const {
  if (site == kHead) return head;
  return site.ends_with(kInput) || attention;
}

bool SiteSelection::wants_weights(std::string_view site) const {
  return attention && site.ends_with(kWeights);
}

std::string weight_of(std::string_view site, const std::string& head_weight) {
  if (site == kHead) return head_weight;
  if (!site.ends_with(kInput)) return {};
  return std::string(site.substr(0, site.size() - kInput.size())) + ".weight";
}

Tensor Calibrator::replace(const Context& ctx, std::string_view site, const Tensor& value) {
  overwrite(ctx, site, value);
  return value;
}

/// Looks only.
bool Calibrator::overwrite(const Context& ctx, std::string_view site, const Tensor& value) {
  if (!selection_.selected(site)) return false;
  const auto [found, added] = index_.try_emplace(std::string(site), counts_.size());
  if (added) {
    Counts& counts = counts_.emplace_back();
    counts.site = site;
    counts.bins = OwnedTensor(DType::i64, {kValueBins}, ctx.device);
    counts.extremes = OwnedTensor(DType::i32, {batches_, 2}, ctx.device);
    reset(ctx, {counts.bins, counts.extremes});
  }
  Counts& counts = counts_[found->second];
  QF_EXPECTS(counts.batches < batches_);
  const Tensor extremes = counts.extremes.view().slice(0, counts.batches++, 1);
  observe(ctx, {counts.bins, extremes}, value);
  return false;
}

std::vector<std::string> Calibrator::sites() const {
  std::vector<std::string> names;
  for (const Counts& counts : counts_) names.push_back(counts.site);
  return names;
}

ValueDistribution Calibrator::distribution(std::string_view site) const {
  const auto found = index_.find(site);
  QF_EXPECTS(found != index_.end());
  const Counts& counts = counts_[found->second];
  const HostView bins(counts.bins), extremes(counts.extremes);
  return {bins.view(), extremes.view().slice(0, 0, counts.batches)};
}

Tensor FakeQuantizer::replace(const Context& ctx, std::string_view site, const Tensor& value) {
  const auto found = grids_.find(site);
  if (found == grids_.end()) return value;
  if (!memory_.view() || memory_.view().count() < value.bytes())
    memory_ = OwnedTensor(DType::u8, {value.bytes()}, ctx.device);
  const Tensor rounded(memory_.view().data, value.dtype, value.shape, value.device);
  fake_quantize(ctx, rounded, value, found->second);
  return rounded;
}

bool FakeQuantizer::overwrite(const Context& ctx, std::string_view site, const Tensor& value) {
  const auto found = grids_.find(site);
  if (found == grids_.end()) return false;
  fake_quantize(ctx, value, value, found->second);
  return true;
}

}  // namespace quietformer
