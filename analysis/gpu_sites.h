// The part of ActivationStatistics whose numbers are on a GPU. Internal to analysis/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "analysis/cuda/operations.h"
#include "core/buffer.h"
#include "core/cuda/memory.h"

namespace quietformer {

/// Takes moments of activations where they are and keeps the sums of a step there: micro-batches
/// are merged on the GPU, and the host reads all sites in one copy. Sites are numbered by the
/// caller. Allocates when a site appears or its shape grows, never else.
class GpuSites {
 public:
  /// Forgets the sums of the step before. `limits`: of each site recorded in this step.
  void begin_step(std::span<const OutlierLimits> limits);
  /// Asks for the moments of an activation, at most once per site until the next add_samples().
  /// `heads`: also of every unit. `limits`: as told begin_step(), or those of a new site.
  void record(const Context& ctx, std::size_t site, const Tensor& value, const SiteCut& cut,
              const Tensor& validity, const OutlierLimits& limits, bool heads);
  /// What the last micro-batch recorded was asked for again, on the GPU alone (cuda::Graph).
  void repeat() { recorded_ = added_; }
  /// Stands for the memory that record() works on and for what it was told of sites: another object
  /// once any of it changes. Null before the first record().
  const std::shared_ptr<const int>& layout() const { return layout_; }
  /// Adds what was recorded to the sums of the step.
  void add_samples();
  /// Asks for the sums of the step to be sent to the host, after the last record() of the step:
  /// beside the work that ctx.stream of record() is asked for from now on.
  void send();
  /// Waits for that and adds the sums of the step to `sites`, once.
  void read(std::vector<SiteStatistics>& sites);

 private:
  struct Site {
    OwnedTensor parts;
    std::int64_t first_sums = -1;  // index into sums_; of all numbers, then of every unit
    std::int64_t sums_count = 0;
    bool seen = false;  // in this step
    SiteParts recorded;
  };
  struct Limits {  // of kLimits sites, where kernels read them
    cuda::PinnedTensor host;
    OwnedTensor gpu;
  };
  static constexpr std::size_t kLimits = 256;

  void make_room(Site& site, std::int64_t count);
  void change_layout() { layout_ = std::make_shared<const int>(); }
  bool set_limits(std::size_t site, const OutlierLimits& limits);
  void send_limits();
  void add_samples(const Context& ctx);

  Context ctx_;
  std::vector<Site> sites_;
  std::vector<Limits> limits_;         // which stay where they are
  std::vector<std::size_t> recorded_;  // since the last add_samples()
  std::vector<std::size_t> added_;     // by it
  std::vector<SiteParts> jobs_;        // of add_samples(), to reuse its memory
  OwnedTensor sums_;                   // SampleSums on the GPU
  cuda::PinnedTensor host_sums_;
  std::int64_t sums_used_ = 0;
  // Of send():
  cuda::Stream stream_;
  Context beside_;  // on it
  cuda::Event recorded_all_, done_;
  bool sent_ = false;
  std::shared_ptr<const int> layout_;
};

}  // namespace quietformer
