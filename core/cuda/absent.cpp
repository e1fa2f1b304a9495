// core/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "core/cuda/gemm.h"
#include "core/cuda/memory.h"
#include "core/cuda/timer.h"

namespace quietformer::cuda {
namespace {

constexpr const char* kAbsent = "built without CUDA (QUIETFORMER_CUDA=OFF)";

}  // namespace

std::vector<Gpu> gpus() {
  return {};
}
std::string unavailable() {
  return kAbsent;
}
void* allocate(std::int64_t, Device) {
  throw RunError(kAbsent);
}
void release(void*, Device) noexcept {}
void copy(const Tensor&, const Tensor&) {
  throw RunError(kAbsent);
}
void fill(const Context&, const Tensor&, double) {
  throw RunError(kAbsent);
}
void synchronize(Device) {
  throw RunError(kAbsent);
}
void gemm(const Context&, const Tensor&, const Tensor&, Transpose, const Tensor&, Transpose, double,
          Accumulate) {
  throw RunError(kAbsent);
}
Timer::Timer(const Context&) {
  throw RunError(kAbsent);
}
Timer::~Timer() = default;
void Timer::start() {}
void Timer::stop() {}
double Timer::milliseconds() const {
  return 0;  // there is no Timer to ask
}

}  // namespace quietformer::cuda
