#include "analysis/gpu_sites.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace quietformer {
namespace {

static_assert(std::is_trivially_copyable_v<SampleSums> && std::is_trivially_copyable_v<Moments>);

constexpr std::int64_t kFirstSums = 256;  // room to begin with

constexpr std::int64_t kSumsBytes = sizeof(SampleSums);

SampleSums* sums_in(const Tensor& tensor) {
  return static_cast<SampleSums*>(tensor.data);
}

}  // namespace

void GpuSites::begin_step() {
  recorded_.clear();
  sent_ = false;
  for (Site& site : sites_) site.seen = false;
}

void GpuSites::make_room(Site& site, std::int64_t count) {
  site.first_sums = std::exchange(sums_used_, sums_used_ + count);
  site.sums_count = count;
  const std::int64_t had = sums_.view() ? sums_.view().count() : 0;
  if (sums_used_ * kSumsBytes <= had) return;
  const Shape room{std::max({kFirstSums * kSumsBytes, 2 * had, sums_used_ * kSumsBytes})};
  OwnedTensor larger(DType::u8, room, ctx_.device);
  if (had > 0) cuda::copy(larger.view().slice(0, 0, had), sums_);
  sums_ = std::move(larger);
  host_sums_ = cuda::PinnedTensor(DType::u8, room, ctx_.device);
}

void GpuSites::record(const Context& ctx, std::size_t index, const Tensor& value,
                      const SiteCut& cut, const Tensor& validity, const OutlierLimits& limits,
                      bool heads) {
  QF_EXPECTS(!sent_);
  QF_EXPECTS(!sums_.view() || ctx.device == sums_.view().device);
  ctx_ = ctx;
  ctx_.probes = nullptr;
  if (sites_.size() <= index) sites_.resize(index + 1);
  Site& site = sites_[index];
  const std::int64_t sums_count = heads ? 1 + cut.units : 1;
  if (site.first_sums < 0) make_room(site, sums_count);
  QF_EXPECTS(site.sums_count == sums_count);
  SiteParts& parts = site.recorded;
  parts.samples = cut.samples, parts.units = cut.units;
  parts.parts_of_unit = cuda::parts_of_unit(cut, value.dtype);
  parts.heads = heads;
  const std::int64_t bytes = parts.samples * parts.units * parts.parts_of_unit *
                             static_cast<std::int64_t>(sizeof(Moments));
  if (!site.parts.view() || site.parts.view().count() < bytes)
    site.parts = OwnedTensor(DType::u8, {bytes}, ctx.device);
  auto* const memory = static_cast<Moments*>(site.parts.view().data);
  parts.parts = memory;
  cuda::site_moments(ctx_, memory, value, cut, validity, limits);
  recorded_.push_back(index);
}

void GpuSites::add_samples() {
  if (recorded_.empty()) return;
  jobs_.clear();
  for (const std::size_t index : recorded_) {
    Site& site = sites_[index];
    site.recorded.sums = sums_in(sums_) + site.first_sums;
    site.recorded.first = !std::exchange(site.seen, true);
    jobs_.push_back(site.recorded);
  }
  recorded_.clear();
  cuda::add_samples(ctx_, jobs_);
}

void GpuSites::send() {
  add_samples();
  if (sent_ || std::none_of(sites_.begin(), sites_.end(), [](const Site& s) { return s.seen; }))
    return;
  const std::int64_t bytes = sums_used_ * kSumsBytes;
  cuda::copy_async(ctx_, host_sums_.view().slice(0, 0, bytes), sums_.view().slice(0, 0, bytes));
  sent_ = true;
}

void GpuSites::read(std::vector<SiteStatistics>& sites) {
  send();
  if (!sent_) return;
  cuda::synchronize(ctx_);
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    if (!std::exchange(sites_[i].seen, false)) continue;
    const SampleSums* sums = sums_in(host_sums_) + sites_[i].first_sums;
    sites[i].all.merge(*sums++);
    for (SampleSums& head : sites[i].heads) head.merge(*sums++);
  }
}

}  // namespace quietformer
