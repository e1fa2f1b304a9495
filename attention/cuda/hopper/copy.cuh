// What the kernels of compute capability 9.0 copy and wait with: mbarriers, boxes of the tensor
// memory accelerator (TMA), and registers that one warpgroup leaves to another.
//
// An mbarrier counts arrivals and bytes still to come; when both are complete its phase flips. Who
// waits names the parity of the phase it waits for (PTX ISA, "Parallel Synchronization: mbarrier").
#pragma once

#include <cstdint>

#include "core/cuda/tensor_map.h"

namespace quietformer::cuda {

/// A stage of a buffer and the parity of its phase.
template <int stages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  bool operator==(const Ring&) const = default;
};

/// By one thread, before fence_barriers() and a barrier of the block.
__device__ __forceinline__ void start_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(std::uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(barrier)
               : "memory");
}
/// Arrives and announces bytes that copies will bring.
__device__ __forceinline__ void arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile(
      "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
          barrier),
      "r"(bytes)
      : "memory");
}

/// Arrives, one of the arrivals that the barrier counts, once this thread's copies so far (copy_4
/// of mma.cuh) are complete.
__device__ __forceinline__ void arrive_with_copies(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Until the phase of this parity is complete.
__device__ __forceinline__ void wait_for(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      " .reg .pred done;\n"
      "again:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @done bra over;\n"
      " bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// Starts copying 64 features and the map's rows from (feature, row, head, batch) on to `to`, a
/// multiple of 1024. One thread; the bytes count at `barrier`.
__device__ __forceinline__ void copy_box(std::uint32_t to, const TensorMap& map, int feature,
                                         int row, int head, int batch, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(feature), "r"(row), "r"(head), "r"(batch), "r"(barrier)
      : "memory");
}
/// The same for `bytes` that follow each other; all three multiples of 16.
__device__ __forceinline__ void copy_bytes(std::uint32_t to, const void* from, int bytes,
                                           std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

/// Starts copying a box back, from `from`, what lies outside of the tensor left out. One thread.
__device__ __forceinline__ void store_box(const TensorMap& map, std::uint32_t from, int feature,
                                          int row, int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          &map),
      "r"(from), "r"(feature), "r"(row), "r"(head), "r"(batch)
      : "memory");
}
/// Until all boxes that this thread has stored are read.
__device__ __forceinline__ void wait_for_stored() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// What this thread read and wrote in shared memory comes before what TMA reads and writes there,
/// for whom a barrier joins behind this.
__device__ __forceinline__ void fence_before_boxes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A whole warpgroup: gives registers back, or takes what others gave.
template <int count>
__device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

}  // namespace quietformer::cuda
