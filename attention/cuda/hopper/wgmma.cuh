// Products of a warpgroup (4 warps, 64 rows) on compute capability 9.0: wgmma, f32 accumulation.
//
// Operands in shared memory are tiles of rows of 64 16-bit features, 128 bytes a row, swizzled by
// 128 bytes as TMA writes them (core/cuda/tensor_map.h); wider tiles are several of these. A
// descriptor says where a tile starts and how far its blocks of 8 rows (1024 bytes), and with
// transposed tiles its blocks of 64 features, are apart (PTX ISA, "Asynchronous warpgroup level
// matrix shared memory layout").
//
// Warp w of the warpgroup holds rows 16 w of C and of an A in registers, in the fragments of
// mma.cuh: c[n] are columns 8 n.
//
// Products are asynchronous: between start and wait nothing may touch C or the operands.
#pragma once

#include <cstdint>

#include "attention/cuda/mma.cuh"

namespace quietformer::cuda {

/// Registers that products read or add to were written before this.
__device__ __forceinline__ void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// All products started so far are one group.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most `pending` groups are under way.
template <int pending>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/// What is computed of `c` before this stays before it, and behind it what follows: the compiler,
/// who knows nothing of products under way, would read sums before the wait, and move arithmetic
/// that should run under products behind their wait.
template <int n>
__device__ __forceinline__ void keep_in_place(float (&c)[n][4]) {
#pragma unroll
  for (auto& block : c)
    asm volatile("" : "+f"(block[0]), "+f"(block[1]), "+f"(block[2]), "+f"(block[3])::"memory");
}

/// The low word of the descriptor of a tile at `address`, a multiple of 1024, which 16 features or
/// 8 rows further differ by an addition: one 16th of the bytes. `blocks`: bytes from 64 features to
/// the next 64, which only transposed tiles read. The high word is the same for all.
__device__ __forceinline__ std::uint32_t tile_descriptor(std::uint32_t address, int blocks = 16) {
  return (address & 0x3FFFF) >> 4 | static_cast<std::uint32_t>(blocks >> 4) << 16;
}
#define QF_DESCRIPTOR "0x40000040"  // 1024 bytes between blocks of rows; swizzled by 128 bytes

// Four accumulators of 8 columns, and all of 64.
#define QF_C(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define QF_C64(c, n)                                                                          \
  QF_C(c, n), QF_C(c, n + 1), QF_C(c, n + 2), QF_C(c, n + 3), QF_C(c, n + 4), QF_C(c, n + 5), \
      QF_C(c, n + 6), QF_C(c, n + 7)
#define QF_REGISTERS_64                                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define QF_REGISTERS_32                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

/// Products for an operand type of mma.cuh: 64 rows of A and 16 features of both a call.
template <class T>
struct Warpgroup;

// multiply: c = a b^T, or c += where `add` is not 0, of rows of both tiles. multiply_columns: the
// same of columns, 64 of either: c = a^T b, both transposed. add: c += a b, 16 rows of b,
// transposed.
#define QF_WARPGROUP(T, TYPES)                                                                 \
  template <>                                                                                  \
  struct Warpgroup<T> {                                                                        \
    static __device__ __forceinline__ void multiply(float (&c)[16][4], std::uint32_t a,        \
                                                    std::uint32_t b, int add) {                \
      asm volatile(                                                                            \
          "{ .reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %66, 0;\n"                       \
          "mov.b64 a, {%64, " QF_DESCRIPTOR "}; mov.b64 b, {%65, " QF_DESCRIPTOR               \
          "};\n"                                                                               \
          "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPES " {" QF_REGISTERS_64            \
          "}, a, b, add, 1, 1, 0, 0; }"                                                        \
          : QF_C64(c, 0), QF_C64(c, 8)                                                         \
          : "r"(a), "r"(b), "r"(add));                                                         \
    }                                                                                          \
    static __device__ __forceinline__ void multiply(float (&c)[8][4], std::uint32_t a,         \
                                                    std::uint32_t b, int add) {                \
      asm volatile(                                                                            \
          "{ .reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %34, 0;\n"                       \
          "mov.b64 a, {%32, " QF_DESCRIPTOR "}; mov.b64 b, {%33, " QF_DESCRIPTOR               \
          "};\n"                                                                               \
          "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPES " {" QF_REGISTERS_32             \
          "}, a, b, add, 1, 1, 0, 0; }"                                                        \
          : QF_C64(c, 0)                                                                       \
          : "r"(a), "r"(b), "r"(add));                                                         \
    }                                                                                          \
    static __device__ __forceinline__ void multiply_columns(float (&c)[8][4], std::uint32_t a, \
                                                            std::uint32_t b, int add) {        \
      asm volatile(                                                                            \
          "{ .reg .pred add; .reg .b64 a, b; setp.ne.b32 add, %34, 0;\n"                       \
          "mov.b64 a, {%32, " QF_DESCRIPTOR "}; mov.b64 b, {%33, " QF_DESCRIPTOR               \
          "};\n"                                                                               \
          "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPES " {" QF_REGISTERS_32             \
          "}, a, b, add, 1, 1, 1, 1; }"                                                        \
          : QF_C64(c, 0)                                                                       \
          : "r"(a), "r"(b), "r"(add));                                                         \
    }                                                                                          \
    static __device__ __forceinline__ void add(float (&c)[16][4], const std::uint32_t (&a)[4], \
                                               std::uint32_t b) {                              \
      asm volatile(                                                                            \
          "{ .reg .pred add; .reg .b64 b; setp.eq.b32 add, 0, 0;\n"                            \
          "mov.b64 b, {%68, " QF_DESCRIPTOR                                                    \
          "};\n"                                                                               \
          "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPES " {" QF_REGISTERS_64            \
          "}, {%64, %65, %66, %67}, b, add, 1, 1, 1; }"                                        \
          : QF_C64(c, 0), QF_C64(c, 8)                                                         \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));                               \
    }                                                                                          \
    static __device__ __forceinline__ void add(float (&c)[8][4], const std::uint32_t (&a)[4],  \
                                               std::uint32_t b) {                              \
      asm volatile(                                                                            \
          "{ .reg .pred add; .reg .b64 b; setp.eq.b32 add, 0, 0;\n"                            \
          "mov.b64 b, {%36, " QF_DESCRIPTOR                                                    \
          "};\n"                                                                               \
          "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPES " {" QF_REGISTERS_32             \
          "}, {%32, %33, %34, %35}, b, add, 1, 1, 1; }"                                        \
          : QF_C64(c, 0)                                                                       \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));                               \
    }                                                                                          \
  };

QF_WARPGROUP(Bf16, "bf16.bf16")
QF_WARPGROUP(F16, "f16.f16")

#undef QF_WARPGROUP
#undef QF_DESCRIPTOR
#undef QF_REGISTERS_32
#undef QF_REGISTERS_64
#undef QF_C64
#undef QF_C

}  // namespace quietformer::cuda
