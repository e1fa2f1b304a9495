// Work of a GPU that comes again and again, recorded once.
#pragma once

#include <cstdint>
#include <functional>

#include "core/context.h"
#include "core/cuda/memory.h"

namespace quietformer {

/// Whether work that can be is recorded (cuda::Graph); it does the same, bit for bit.
enum class Recording : std::uint8_t { no, yes };

/// Work that asks the same of a GPU every time, but for numbers that it reads in the GPU's memory.
/// It runs as it is the first time, when libraries choose algorithms and allocate, is recorded the
/// next time and from then on started as a whole.
class RecordedWork {
 public:
  /// `work` asks ctx.stream (not the default stream) for it; always by the same host thread. With
  /// Recording::no it may ask for more than usual. Whether `work` was called: else the GPU alone
  /// repeats it.
  bool run(const Context& ctx, Recording recording, const std::function<void()>& work);

 private:
  bool known_ = false;  // it ran
  cuda::Graph graph_;
};

}  // namespace quietformer
