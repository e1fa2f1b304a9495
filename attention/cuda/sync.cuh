// How warps and blocks of the backward of `flash` wait for each other, and words of shared memory.
#pragma once

#include <cstdint>

namespace quietformer::cuda {

/// Named barrier `id` (1 to 15; __syncthreads() is 0) of `threads` threads, whole warps: waits for
/// all of them, and what they wrote before is visible behind it.
__device__ __forceinline__ void wait_at(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ std::uint32_t load_word(std::uint32_t from) {
  std::uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
  return word;
}

/// Whether a thread adds to four neighbouring floats of global memory at once.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kAddsFour = true;
#else
inline constexpr bool kAddsFour = false;
#endif

/// Adds to four floats, aligned to 16 bytes. sm_90 and newer.
__device__ __forceinline__ void add_four(float* to, const float (&x)[4]) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]),
               "f"(x[2]), "f"(x[3])
               : "memory");
}

// --- blocks that take turns ---

/// One lane: waits until `turn` others have passed on.
__device__ __forceinline__ void wait_for_turn(const unsigned* counter, unsigned turn) {
  unsigned now;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  while (now != turn);
}
/// One lane, behind a __syncwarp() of the warp that wrote: the release covers what all of it wrote.
__device__ __forceinline__ void pass_turn(unsigned* counter, unsigned turn) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(counter), "r"(turn + 1) : "memory");
}

}  // namespace quietformer::cuda
