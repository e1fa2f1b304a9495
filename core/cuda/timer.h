// Times work on a GPU by its own clock. Host code: includes nothing of CUDA; in a build without
// CUDA every call is the RunError of core/cuda/memory.h.
#pragma once

#include "core/context.h"

namespace quietformer::cuda {

/// Two events in the order of the device's work; what lies between them is timed, without the wait
/// of the host. Resolution about half a microsecond.
class Timer {
 public:
  explicit Timer(const Context& ctx);
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer();

  void start();
  void stop();
  /// From start() to stop(); waits for the work between them, and throws what failed there.
  double milliseconds() const;

 private:
  Context ctx_;
  // Events; of no use in builds without CUDA.
  [[maybe_unused]] void* begin_ = nullptr;
  [[maybe_unused]] void* end_ = nullptr;
};

/// From here on, or no longer, a profiler records that was told to wait for it (ncu
/// --profile-from-start off).
void profile(bool on);

}  // namespace quietformer::cuda
