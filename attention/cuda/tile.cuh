// Tiles of rows in shared memory, as the kernels of `flash` copy and multiply them.
//
// A row of `dim` 16-bit features is dim / 8 chunks of 16 bytes. Chunks are swizzled: chunk c of row
// r lies at c ^ (r % 8), so the 8 rows of a matrix fall into different banks both when copied and
// when loaded. Tiles start at multiples of a row's size.
#pragma once

#include "attention/cuda/flash_call.h"
#include "attention/cuda/mma.cuh"

namespace quietformer::cuda {

/// Tiles with features padded to `dim`, copied by all `threads` of a block.
template <int dim, int threads>
struct SharedRows {
  static constexpr int kChunks = dim / 8, kRowBytes = dim * 2;
  static constexpr int kStep = threads / kChunks;  // rows that one round of copies covers

  /// XOR with 32 k steps 2 k chunks further.
  static __device__ __forceinline__ std::uint32_t chunk_address(std::uint32_t tile, int row,
                                                                int chunk) {
    return tile + static_cast<std::uint32_t>(row * kRowBytes + (chunk ^ (row & 7)) * 16);
  }

  /// The chunk r rows below that at `at`, where kStep divides r: r % 8 touches no bit of the row of
  /// a thread's first chunk.
  static __device__ __forceinline__ std::uint32_t below(std::uint32_t at, int r) {
    return (at ^ static_cast<std::uint32_t>((r & 7) * 16)) +
           static_cast<std::uint32_t>(r * kRowBytes);
  }

  /// This thread's part of copies of consecutive rows: every kStep-th row, a chunk of each.
  struct Copy {
    const std::uint16_t* at;  // in the row that comes next
    int row;                  // its index
  };

  /// From row `first` of `rows` on.
  static __device__ __forceinline__ Copy start(const RowTensor& from, const std::uint16_t* rows,
                                               int first) {
    const int thread = static_cast<int>(threadIdx.x), row = first + thread / kChunks;
    return {rows + row * from.row + thread % kChunks * 8, row};
  }

  /// Starts copying the next `count` rows to the tile at `to`; rows from `limit` and features from
  /// `features` on become 0.
  template <int count>
  static __device__ __forceinline__ void copy(Copy& copy, std::uint32_t to, const RowTensor& from,
                                              int limit, int features) {
    static_assert(count % kStep == 0);
    const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks;
    to = chunk_address(to, thread / kChunks, chunk);
    if (from.aligned) {
      const bool inside = chunk * 8 < features;
#pragma unroll
      for (int r = 0; r < count; r += kStep)
        copy_16(below(to, r), copy.at + r * from.row, inside && copy.row + r < limit);
    } else {
#pragma unroll 1
      for (int r = 0; r < count; r += kStep) {
        std::uint32_t words[4] = {};
        if (copy.row + r < limit)
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (chunk * 8 + i < features)
              words[i / 2] |= static_cast<std::uint32_t>(copy.at[r * from.row + i])
                              << (16 * (i % 2));
        store_shared(below(to, r), words);
      }
    }
    copy.at += count * from.row;
    copy.row += count;
  }

  /// The same from Copy::at on where all rows and features exist and `from` is aligned.
  template <int count>
  static __device__ __forceinline__ void copy_whole(const std::uint16_t* at, std::uint32_t to,
                                                    const RowTensor& from) {
    const int thread = static_cast<int>(threadIdx.x);
    to = chunk_address(to, thread / kChunks, thread % kChunks);
#pragma unroll
    for (int r = 0; r < count; r += kStep) copy_16(below(to, r), at + r * from.row);
  }

  /// One warp writes `count` rows of a tile to `rows` on; rows from `limit` and features from
  /// `features` on are left alone.
  template <int count>
  static __device__ __forceinline__ void store(const RowTensor& to, std::uint16_t* rows,
                                               std::uint32_t tile, int limit, int features) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) % 32; i < count * kChunks; i += 32) {
      const int row = i / kChunks, chunk = i % kChunks;
      if (row >= limit) continue;
      std::uint32_t words[4];
      load_shared(words, chunk_address(tile, row, chunk));
      std::uint16_t* const at = rows + row * to.row + chunk * 8;
      if (to.aligned) {
        if (chunk * 8 < features)
          *reinterpret_cast<uint4*>(at) = make_uint4(words[0], words[1], words[2], words[3]);
      } else {
#pragma unroll
        for (int f = 0; f < 8; ++f)
          if (chunk * 8 + f < features)
            at[f] = static_cast<std::uint16_t>(words[f / 2] >> (16 * (f % 2)));
      }
    }
  }

  /// Of a row of a tile, by one thread.
  template <class T>
  static __device__ __forceinline__ float sum_of_squares(std::uint32_t tile, int row) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      std::uint32_t words[4];
      load_shared(words, chunk_address(tile, row, c));
#pragma unroll
      for (const std::uint32_t word : words) {
        sum += T::low(word) * T::low(word);
        sum += T::high(word) * T::high(word);
      }
    }
    return sum;
  }

  /// Changes the signs of a row of a tile, by one thread.
  static __device__ __forceinline__ void negate(std::uint32_t tile, int row) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const std::uint32_t at = chunk_address(tile, row, c);
      std::uint32_t words[4];
      load_shared(words, at);
#pragma unroll
      for (std::uint32_t& word : words) word ^= 0x80008000u;
      store_shared(at, words);
    }
  }

  /// c = a b^T of tiles: c[m][n] holds rows 16 m of a and rows 8 n of b, see mma.cuh.
  template <class T, int M, int N>
  static __device__ __forceinline__ void multiply(float (&c)[M][N][4], std::uint32_t a_tile,
                                                  std::uint32_t b_tile) {
    clear(c);
    // a: matrices are rows 0, 8 and features 0, 8; b: features 0, 8 and rows 0, 8.
    const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, line = lane % 8;
    std::uint32_t a = chunk_address(a_tile, matrix % 2 * 8 + line, matrix / 2);
    const std::uint32_t b = chunk_address(b_tile, matrix / 2 * 8 + line, matrix % 2);
    asm volatile("" : "+r"(a));  // or its chunks are computed before the loop, and spilled
#pragma unroll
    for (int k = 0; k < dim / 16; ++k) {
      std::uint32_t x[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices(x[m], (a ^ 32 * k) + m * 16 * kRowBytes);
#pragma unroll
      for (int n = 0; n < N / 2; ++n) {
        std::uint32_t y[4];
        load_matrices(y, (b ^ 32 * k) + n * 16 * kRowBytes);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          T::multiply(c[m][2 * n], x[m], y[0], y[1]);
          T::multiply(c[m][2 * n + 1], x[m], y[2], y[3]);
        }
      }
    }
  }

  /// The same with fragments loaded a step before their products: left to itself the compiler,
  /// short of registers, loads them when they are needed, and the products wait.
  template <class T, int M, int N>
  static __device__ __forceinline__ void multiply_ahead(float (&c)[M][N][4], std::uint32_t a_tile,
                                                        std::uint32_t b_tile) {
    clear(c);
    const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, line = lane % 8;
    std::uint32_t a = chunk_address(a_tile, matrix % 2 * 8 + line, matrix / 2);
    const std::uint32_t b = chunk_address(b_tile, matrix / 2 * 8 + line, matrix % 2);
    asm volatile("" : "+r"(a));                              // as above
    constexpr int kEach = N / 2, kSteps = dim / 16 * kEach;  // of 16 rows of b and 16 features
    std::uint32_t x[2][M][4], y[2][4];
    const auto load_a = [&](int k) {
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices(x[k % 2][m], (a ^ 32 * k) + m * 16 * kRowBytes);
    };
    const auto load_b = [&](int step) {
      load_matrices(y[step % 2], (b ^ 32 * (step / kEach)) + step % kEach * 16 * kRowBytes);
    };
    load_a(0);
    load_b(0);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int k = step / kEach, n = step % kEach;
      if (step + 1 < kSteps) load_b(step + 1);
      if (n == kEach / 2 && step + kEach < kSteps) load_a(k + 1);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        T::multiply(c[m][2 * n], x[k % 2][m], y[step % 2][0], y[step % 2][1]);
        T::multiply(c[m][2 * n + 1], x[k % 2][m], y[step % 2][2], y[step % 2][3]);
      }
    }
  }

 private:
  template <int M, int N>
  static __device__ __forceinline__ void clear(float (&c)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (float& value : c[m][n]) value = 0;
  }
};

}  // namespace quietformer::cuda
