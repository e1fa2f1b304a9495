// The scratch memory of an implementation: how it is cut up and checked.
#pragma once

#include "attention/attention.h"
#include "core/buffer.h"

namespace quietformer {

/// Hands out aligned pieces of a workspace, as offsets from its start.
struct Carver {
  std::int64_t bytes = 0;  // handed out so far

  static std::int64_t align(std::int64_t bytes) {
    return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  }
  std::int64_t operator()(std::int64_t size) {
    const std::int64_t offset = bytes;
    bytes += align(size);
    return offset;
  }
};

/// The same as tensors in `memory`; where that is null, tensors without memory, whose sizes count.
class TensorCarver {
 public:
  TensorCarver(void* memory, Device device)
      : memory_(static_cast<char*>(memory)), device_(device) {}
  explicit TensorCarver(const AttentionProblem& problem)
      : TensorCarver(problem.workspace.data, problem.q.device) {}

  Tensor operator()(DType dtype, const Shape& shape) {
    const std::int64_t offset = carve_(shape.count() * size_of(dtype));
    return Tensor(memory_ == nullptr ? nullptr : memory_ + offset, dtype, shape, device_);
  }
  /// Absent unless it is wanted.
  Tensor operator()(bool wanted, DType dtype, const Shape& shape) {
    return wanted ? (*this)(dtype, shape) : Tensor();
  }
  std::int64_t bytes() const { return carve_.bytes; }  // handed out so far

 private:
  char* const memory_;
  const Device device_;
  Carver carve_;
};

/// What every implementation does first: check() the problem, its own why_not, and the workspace.
/// Throws InputError.
void prepare(const AttentionImplementation& implementation, const Context& ctx,
             const AttentionProblem& problem, Direction direction);

}  // namespace quietformer
