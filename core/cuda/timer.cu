#include "core/cuda/timer.h"

#include <cuda_profiler_api.h>

#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

cudaEvent_t event(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

}  // namespace

Timer::Timer(const Context& ctx) : ctx_(ctx) {
  const CurrentDevice current(ctx.device);
  for (void** handle : {&begin_, &end_}) {
    cudaEvent_t created = nullptr;
    check_cuda(cudaEventCreate(&created), "creating an event", ctx.device);
    *handle = created;
  }
}

Timer::~Timer() {
  for (void* handle : {begin_, end_}) cudaEventDestroy(event(handle));
}

void Timer::start() {
  const CurrentDevice current(ctx_.device);
  check_cuda(cudaEventRecord(event(begin_), ctx_.stream), "timing", ctx_.device);
}

void Timer::stop() {
  const CurrentDevice current(ctx_.device);
  check_cuda(cudaEventRecord(event(end_), ctx_.stream), "timing", ctx_.device);
}

double Timer::milliseconds() const {
  const CurrentDevice current(ctx_.device);
  check_cuda(cudaEventSynchronize(event(end_)), "timing", ctx_.device);
  float elapsed = 0;
  check_cuda(cudaEventElapsedTime(&elapsed, event(begin_), event(end_)), "timing", ctx_.device);
  return double(elapsed);
}

void profile(bool on) {
  if (on)
    cudaProfilerStart();
  else
    cudaProfilerStop();
}

}  // namespace quietformer::cuda
