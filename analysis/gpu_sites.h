// The part of ActivationStatistics whose numbers are on a GPU. Internal to analysis/.
#pragma once

#include <cstdint>
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
  /// Forgets the sums of the step before.
  void begin_step();
  /// Asks for the moments of an activation, at most once per site until the next add_samples().
  /// `heads`: also of every unit.
  void record(const Context& ctx, std::size_t site, const Tensor& value, const SiteCut& cut,
              const Tensor& validity, const OutlierLimits& limits, bool heads);
  /// Adds what was recorded to the sums of the step.
  void add_samples();
  /// Asks for the sums of the step to be sent to the host, after the last record() of the step.
  void send();
  /// Waits for the stream of the last record() and adds the sums of the step to `sites`, once.
  void read(std::vector<SiteStatistics>& sites);

 private:
  struct Site {
    OwnedTensor parts;
    std::int64_t first_sums = -1;  // index into sums_; of all numbers, then of every unit
    std::int64_t sums_count = 0;
    bool seen = false;  // in this step
    SiteParts recorded;
  };

  void make_room(Site& site, std::int64_t count);

  Context ctx_;
  std::vector<Site> sites_;
  std::vector<std::size_t> recorded_;  // since the last add_samples()
  std::vector<SiteParts> jobs_;        // of add_samples(), to reuse its memory
  OwnedTensor sums_;                   // SampleSums on the GPU
  cuda::PinnedTensor host_sums_;
  std::int64_t sums_used_ = 0;
  bool sent_ = false;
};

}  // namespace quietformer
