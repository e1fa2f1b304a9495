#include "analysis/gpu_sites.h"

#include <algorithm>
#include <cstring>
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

void GpuSites::begin_step(std::span<const OutlierLimits> limits) {
  bool changed = false;
  for (std::size_t i = 0; i < std::min(limits.size(), limits_.size() * kLimits); ++i)
    changed |= set_limits(i, limits[i]);
  if (changed) send_limits();
  recorded_.clear();
  if (std::exchange(sent_, false)) done_.hold(ctx_);
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

/// Whether that is news.
bool GpuSites::set_limits(std::size_t site, const OutlierLimits& limits) {
  while (limits_.size() * kLimits <= site) {
    const Shape room{static_cast<std::int64_t>(kLimits * sizeof(OutlierLimits))};
    limits_.push_back({cuda::PinnedTensor(DType::u8, room, ctx_.device),
                       OwnedTensor(DType::u8, room, ctx_.device)});
  }
  void* const at =
      static_cast<OutlierLimits*>(limits_[site / kLimits].host.view().data) + site % kLimits;
  if (std::memcmp(at, &limits, sizeof(limits)) == 0) return false;
  std::memcpy(at, &limits, sizeof(limits));
  return true;
}

/// The host's side changes between steps alone, and at sites that no kernel has looked up yet.
void GpuSites::send_limits() {
  for (const Limits& limits : limits_) cuda::copy_async(ctx_, limits.gpu, limits.host);
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
  if (site.first_sums < 0) {
    make_room(site, sums_count);
    if (set_limits(index, limits)) send_limits();
  }
  QF_EXPECTS(site.sums_count == sums_count);
  SiteParts& parts = site.recorded;
  const std::int64_t parts_of_unit = cuda::parts_of_unit(cut, value.dtype);
  if (parts.samples != cut.samples || parts.units != cut.units ||
      parts.parts_of_unit != parts_of_unit)
    change_layout();
  parts.samples = cut.samples, parts.units = cut.units;
  parts.parts_of_unit = parts_of_unit;
  parts.heads = heads;
  const std::int64_t bytes = parts.samples * parts.units * parts.parts_of_unit *
                             static_cast<std::int64_t>(sizeof(Moments));
  if (!site.parts.view() || site.parts.view().count() < bytes) {
    site.parts = OwnedTensor(DType::u8, {bytes}, ctx.device);
    change_layout();
  }
  auto* const memory = static_cast<Moments*>(site.parts.view().data);
  parts.parts = memory;
  const auto* const limits_there =
      static_cast<const OutlierLimits*>(limits_[index / kLimits].gpu.view().data) + index % kLimits;
  cuda::site_moments(ctx_, memory, value, cut, validity, limits_there);
  recorded_.push_back(index);
}

void GpuSites::add_samples() {
  add_samples(ctx_);
}

void GpuSites::add_samples(const Context& ctx) {
  if (recorded_.empty()) return;
  jobs_.clear();
  for (const std::size_t index : recorded_) {
    Site& site = sites_[index];
    site.recorded.sums = sums_in(sums_) + site.first_sums;
    site.recorded.first = !std::exchange(site.seen, true);
    jobs_.push_back(site.recorded);
  }
  if (!added_.empty() && recorded_ != added_) change_layout();
  added_.swap(recorded_);
  recorded_.clear();
  cuda::add_samples(ctx, jobs_);
}

void GpuSites::send() {
  const auto seen = [](const Site& site) { return site.seen; };
  if (sent_ || (recorded_.empty() && std::none_of(sites_.begin(), sites_.end(), seen))) return;
  if (!beside_.stream) {
    stream_ = cuda::Stream(ctx_.device);
    beside_ = ctx_;
    beside_.stream = stream_.get();
    recorded_all_ = cuda::Event(ctx_.device), done_ = cuda::Event(ctx_.device);
  }
  recorded_all_.record(ctx_);
  recorded_all_.hold(beside_);
  add_samples(beside_);
  const std::int64_t bytes = sums_used_ * kSumsBytes;
  cuda::copy_async(beside_, host_sums_.view().slice(0, 0, bytes), sums_.view().slice(0, 0, bytes));
  done_.record(beside_);
  sent_ = true;
}

void GpuSites::read(std::vector<SiteStatistics>& sites) {
  send();
  if (!sent_) return;
  done_.wait();
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    if (!std::exchange(sites_[i].seen, false)) continue;
    const SampleSums* sums = sums_in(host_sums_) + sites_[i].first_sums;
    sites[i].all.merge(*sums++);
    for (SampleSums& head : sites[i].heads) head.merge(*sums++);
  }
}

}  // namespace quietformer
