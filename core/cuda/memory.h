// GPUs of this machine and memory on them. Host code: includes nothing of CUDA and exists in every
// build. Without CUDA (absent.cpp) gpus() is empty, unavailable() says why and everything else
// throws RunError "built without CUDA (QUIETFORMER_CUDA=OFF)".
//
// Failures of the CUDA runtime are RunErrors in one line that name the operation and the device.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"

// CUDA's names for what a cudaEvent_t and a cudaGraphExec_t point to.
struct CUevent_st;
struct CUgraphExec_st;

namespace quietformer::cuda {

struct Gpu {
  std::int16_t index = 0;
  std::string name;          // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;  // in total
};

/// The GPUs this process may use, in the runtime's order; empty where there is none. Never throws.
std::vector<Gpu> gpus();

/// Why gpus() is empty, for messages and skipped tests; empty when there is a GPU.
std::string unavailable();

/// Device memory from plain cudaMalloc, zero-filled, aligned to 256 bytes; null for 0 bytes.
void* allocate(std::int64_t bytes, Device device);
void release(void* data, Device device) noexcept;

/// Copies the elements of `from` to `to` and returns when they have arrived. Equal shapes and
/// types, both contiguous, no overlap; any two of host and GPUs. Waits for all earlier work of the
/// GPU, whatever its stream.
void copy(const Tensor& to, const Tensor& from);

/// The same in the order of ctx.stream's work, one of both on ctx.device. It returns early when the
/// host's side is pinned (PinnedTensor), whose contents must then stay until the stream has come
/// this far (Event); other host memory is staged, and the call waits where CUDA wants it to.
void copy_async(const Context& ctx, const Tensor& to, const Tensor& from);

/// Writes `value`, converted to the element type, to every element of a contiguous tensor on a GPU.
/// Runs in the order of the device's work and may return before it is done; synchronize() waits.
void fill(const Context& ctx, const Tensor& out, double value);

/// Writes the elements of `from`, rounded to the nearest (ties to even), to `to`: equal shapes,
/// both contiguous and on ctx.device, f64, f32, bf16 or f16 each. In the order of ctx.stream's
/// work.
void convert(const Context& ctx, const Tensor& to, const Tensor& from);

/// Waits for everything the device was asked to do; throws what failed there.
void synchronize(Device device);

/// Waits for ctx.stream alone; throws what failed there.
void synchronize(const Context& ctx);

/// Page-locked, zero-filled host memory with a shape: copy_async() to and from it does not wait.
/// Movable, not copyable.
class PinnedTensor {
 public:
  PinnedTensor() = default;
  PinnedTensor(DType dtype, const Shape& shape, Device gpu);
  PinnedTensor(PinnedTensor&& other) noexcept;
  PinnedTensor& operator=(PinnedTensor&& other) noexcept;
  ~PinnedTensor();
  const Tensor& view() const { return view_; }  // device: the CPU
  operator const Tensor&() const { return view_; }

 private:
  Tensor view_;
};

/// A queue of work on a GPU, for Context::stream. It does not synchronise with the default stream.
/// Movable, not copyable.
class Stream {
 public:
  Stream() = default;  // the default stream
  explicit Stream(Device device);
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  ~Stream();
  CUstream_st* get() const { return stream_; }

 private:
  CUstream_st* stream_ = nullptr;
};

/// A mark in a stream. Movable, not copyable.
class Event {
 public:
  Event() = default;
  explicit Event(Device device);
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();
  /// Marks the place that ctx.stream has been told to reach.
  void record(const Context& ctx);
  /// Later work of ctx.stream starts when the mark is reached; the host does not wait.
  void hold(const Context& ctx) const;
  /// The host waits for the mark; at once when nothing was recorded.
  void wait() const;

 private:
  Device device_;
  CUevent_st* event_ = nullptr;
};

/// Work recorded once and started as a whole many times (a CUDA graph): what a training step asks
/// of the GPU, without the cost of asking. Pointers and numbers passed to kernels are fixed at
/// recording; what changes between launches is read from device memory. Movable, not copyable.
class Graph {
 public:
  Graph() = default;
  /// Runs `work` on the host, which asks ctx.stream (not the default stream) for work that is
  /// recorded and not done. It must not wait, copy() or allocate on the GPU.
  Graph(const Context& ctx, const std::function<void()>& work);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();
  explicit operator bool() const { return graph_ != nullptr; }
  void launch(const Context& ctx) const;

 private:
  CUgraphExec_st* graph_ = nullptr;
};

}  // namespace quietformer::cuda
