// core/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "core/cuda/gemm.h"
#include "core/cuda/memory.h"
#include "core/cuda/timer.h"
#include "core/cuda/workspace.h"

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
void* workspace(Device) {
  throw RunError(kAbsent);
}
void copy(const Tensor&, const Tensor&) {
  throw RunError(kAbsent);
}
void fill(const Context&, const Tensor&, double) {
  throw RunError(kAbsent);
}
void convert(const Context&, const Tensor&, const Tensor&) {
  throw RunError(kAbsent);
}
void copy_async(const Context&, const Tensor&, const Tensor&) {
  throw RunError(kAbsent);
}
void synchronize(Device) {
  throw RunError(kAbsent);
}
void synchronize(const Context&) {
  throw RunError(kAbsent);
}

// Objects without anything in them can be made, moved and destroyed.
PinnedTensor::PinnedTensor(DType, const Shape&, Device) {
  throw RunError(kAbsent);
}
PinnedTensor::PinnedTensor(PinnedTensor&&) noexcept = default;
PinnedTensor& PinnedTensor::operator=(PinnedTensor&&) noexcept = default;
PinnedTensor::~PinnedTensor() = default;
Stream::Stream(Device) {
  throw RunError(kAbsent);
}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;
Event::Event(Device) {
  throw RunError(kAbsent);
}
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
Event::~Event() = default;
void Event::record(const Context&) {
  throw RunError(kAbsent);
}
void Event::hold(const Context&) const {
  throw RunError(kAbsent);
}
void Event::wait() const {
  QF_EXPECTS(event_ == nullptr && device_ == Device());
  throw RunError(kAbsent);
}
Graph::Graph(const Context&, const std::function<void()>&) {
  throw RunError(kAbsent);
}
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;
void Graph::launch(const Context&) const {
  throw RunError(kAbsent);
}
bool gemm_with(const Context&, const Tensor&, const Tensor&, Transpose, const Tensor&, Transpose,
               const Epilogue&) {
  throw RunError(kAbsent);
}
void gemm(const Context&, const Tensor&, const Tensor&, Transpose, const Tensor&, Transpose, double,
          Accumulate) {
  throw RunError(kAbsent);
}
void gemm_batched(const Context&, DType, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                  double, const BatchedMatrix&, const BatchedMatrix&, const BatchedMatrix&,
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

void profile(bool) {
  throw RunError(kAbsent);
}

}  // namespace quietformer::cuda
