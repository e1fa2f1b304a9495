#include "analysis/gpu_sites.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/cuda/memory.h"

namespace quietformer {
namespace {

static_assert(std::is_trivially_copyable_v<SampleSums> && std::is_trivially_copyable_v<Moments>);

constexpr std::int64_t kFirstSums = 256;  // room to begin with

OwnedTensor sums_tensor(std::int64_t count, Device device) {
  return {DType::u8, {count * static_cast<std::int64_t>(sizeof(SampleSums))}, device};
}

SampleSums* sums_in(const OwnedTensor& tensor) {
  return static_cast<SampleSums*>(tensor.view().data);
}

std::int64_t room_in(const OwnedTensor& tensor) {
  return tensor.view().count() / static_cast<std::int64_t>(sizeof(SampleSums));
}

}  // namespace

void GpuSites::begin_step() {
  recorded_.clear();
  for (Site& site : sites_) site.seen = false;
}

void GpuSites::make_room(Site& site, std::int64_t count) {
  site.first_sums = std::exchange(sums_used_, sums_used_ + count);
  site.sums_count = count;
  if (sums_.view() && sums_used_ <= room_in(sums_)) return;
  const std::int64_t room =
      std::max({kFirstSums, 2 * (sums_.view() ? room_in(sums_) : 0), sums_used_});
  OwnedTensor larger = sums_tensor(room, ctx_.device);
  if (sums_.view()) {
    const std::int64_t bytes = sums_.view().count();
    cuda::copy(larger.view().slice(0, 0, bytes), sums_);
  }
  sums_ = std::move(larger);
  host_sums_ = sums_tensor(room, {});
}

void GpuSites::record(const Context& ctx, std::size_t index, const Tensor& value,
                      const SiteCut& cut, const Tensor& validity, const OutlierLimits& limits,
                      bool heads) {
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
  parts.parts_of_unit = cuda::parts_of_unit(cut);
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

void GpuSites::read(std::vector<SiteStatistics>& sites) {
  add_samples();
  if (std::none_of(sites_.begin(), sites_.end(), [](const Site& site) { return site.seen; }))
    return;
  const std::int64_t bytes = sums_used_ * static_cast<std::int64_t>(sizeof(SampleSums));
  cuda::copy(host_sums_.view().slice(0, 0, bytes), sums_.view().slice(0, 0, bytes));
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    if (!std::exchange(sites_[i].seen, false)) continue;
    const SampleSums* sums = sums_in(host_sums_) + sites_[i].first_sums;
    sites[i].all.merge(*sums++);
    for (SampleSums& head : sites[i].heads) head.merge(*sums++);
  }
}

}  // namespace quietformer
