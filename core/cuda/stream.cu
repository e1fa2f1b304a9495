// Streams, events, graphs and pinned memory. Destructors report nothing: they also run while the
// process ends or after a failure that made the device unusable.
#include <cstring>
#include <utility>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {

PinnedTensor::PinnedTensor(DType dtype, const Shape& shape, Device gpu) {
  const CurrentDevice current(gpu);
  const auto bytes =
      static_cast<std::size_t>(std::max<std::int64_t>(1, shape.count() * size_of(dtype)));
  void* data = nullptr;
  check_cuda(cudaMallocHost(&data, bytes),
             "allocating " + std::to_string(bytes) + " bytes of pinned memory", gpu);
  std::memset(data, 0, bytes);
  view_ = Tensor(data, dtype, shape);
}

PinnedTensor::PinnedTensor(PinnedTensor&& other) noexcept
    : view_(std::exchange(other.view_, Tensor())) {}

PinnedTensor& PinnedTensor::operator=(PinnedTensor&& other) noexcept {
  std::swap(view_, other.view_);
  return *this;
}

PinnedTensor::~PinnedTensor() {
  if (view_.data != nullptr) cudaFreeHost(view_.data);
}

Stream::Stream(Device device) {
  const CurrentDevice current(device);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream", device);
}

Stream::Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}

Stream::~Stream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Event::Event(Device device) : device_(device) {
  const CurrentDevice current(device);
  check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event", device);
}

Event::Event(Event&& other) noexcept
    : device_(other.device_), event_(std::exchange(other.event_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(event_, other.event_);
  return *this;
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

void Event::record(const Context& ctx) {
  QF_EXPECTS(event_ != nullptr && ctx.device == device_);
  const CurrentDevice current(device_);
  check_cuda(cudaEventRecord(event_, ctx.stream), "recording an event", device_);
}

void Event::hold(const Context& ctx) const {
  QF_EXPECTS(event_ != nullptr && ctx.device == device_);
  const CurrentDevice current(device_);
  check_cuda(cudaStreamWaitEvent(ctx.stream, event_, 0), "waiting for an event", device_);
}

void Event::wait() const {
  QF_EXPECTS(event_ != nullptr);
  const CurrentDevice current(device_);
  check_cuda(cudaEventSynchronize(event_), "waiting for an event", device_);
}

Graph::Graph(const Context& ctx, const std::function<void()>& work) {
  QF_EXPECTS(ctx.stream != nullptr);
  const CurrentDevice current(ctx.device);
  check_cuda(cudaStreamBeginCapture(ctx.stream, cudaStreamCaptureModeThreadLocal),
             "recording a graph", ctx.device);
  cudaGraph_t recorded = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(ctx.stream, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    cudaGetLastError();
    throw;
  }
  check_cuda(cudaStreamEndCapture(ctx.stream, &recorded), "recording a graph", ctx.device);
  const cudaError_t made = cudaGraphInstantiate(&graph_, recorded, 0);
  cudaGraphDestroy(recorded);
  check_cuda(made, "preparing a graph", ctx.device);
}

Graph::Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(graph_, other.graph_);
  return *this;
}

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void Graph::launch(const Context& ctx) const {
  QF_EXPECTS(graph_ != nullptr);
  const CurrentDevice current(ctx.device);
  check_cuda(cudaGraphLaunch(graph_, ctx.stream), "starting a graph", ctx.device);
}

}  // namespace quietformer::cuda
