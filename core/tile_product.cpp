#include "core/tile_product.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace quietformer {
namespace {

// kRows * kVectors accumulators, kVectors columns of B and a broadcast fill the registers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRows = 6, kVectors = 4;  // 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRows = 6, kVectors = 2;  // 16 registers
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRows = 6, kVectors = 4;  // 32 registers
#else
constexpr int kVectorBytes = 16, kRows = 6, kVectors = 2;  // 16 registers
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  /// The same in memory, aligned as its elements are.
  typedef T stored __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::stored*>(from);
}
template <class T>
void store(T* to, Vector<T> vector) {
  *reinterpret_cast<typename VectorOf<T>::stored*>(to) = vector;
}

template <class T>
constexpr std::int64_t kWidth = kVectorBytes / std::int64_t{sizeof(T)};

template <class T, int R, int V>
void kernel(std::int64_t depth, T alpha, const T* a, std::int64_t row, std::int64_t step,
            const T* b, std::int64_t ldb, T* c, std::int64_t ldc, Accumulate accumulate) {
  Vector<T> sum[R][V] = {};
  for (std::int64_t p = 0; p < depth; ++p) {
    Vector<T> right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = load(b + p * ldb + v * kWidth<T>);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const T left = a[r * row + p * step];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* const out = c + r * ldc + v * kWidth<T>;
      const Vector<T> product = alpha * sum[r][v];
      store(out, accumulate == Accumulate::add ? load(out) + product : product);
    }
}

template <class T>
using Kernel = decltype(&kernel<T, 1, 1>);

template <class T, std::size_t... I>
constexpr std::array<Kernel<T>, sizeof...(I)> kernels(std::index_sequence<I...>) {
  return {&kernel<T, int(I) / kVectors + 1, int(I) % kVectors + 1>...};
}

/// By rows - 1, then vectors - 1.
template <class T>
constexpr auto kKernels = kernels<T>(std::make_index_sequence<kRows * kVectors>{});

/// combine() over all elements, in halves.
template <int Step, class V, class F, std::size_t... I>
V fold(V vector, F&& combine, std::index_sequence<I...> all) {
  if constexpr (Step == 0)
    return vector;
  else
    return fold<Step / 2>(
        combine(vector, V(__builtin_shufflevector(vector, vector, (I ^ Step)...))), combine, all);
}

/// combine() over whole vectors, in four chains that do not wait for one another.
template <class T, class F>
T reduce(const T* row, std::int64_t begin, std::int64_t end, T start, F&& combine) {
  constexpr int kWide = kWidth<T>;
  Vector<T> chain[4];
  for (Vector<T>& vector : chain) vector = start - Vector<T>{};
  std::int64_t j = begin;
  for (; j + 4 * kWide <= end; j += 4 * kWide)
    for (int k = 0; k < 4; ++k) chain[k] = combine(chain[k], load(row + j + k * kWide));
  for (; j < end; j += kWide) chain[0] = combine(chain[0], load(row + j));
  const Vector<T> all = combine(combine(chain[0], chain[1]), combine(chain[2], chain[3]));
  return fold<kWide / 2>(all, combine, std::make_index_sequence<kWide>{})[0];
}

/// One step of Eklundh's transposition: exchanges the elements of `upper` whose index has bit Step
/// with those of `lower` whose index lacks it.
template <int Step, class V, std::size_t... I>
void exchange(V& upper, V& lower, std::index_sequence<I...>) {
  constexpr int kWide = sizeof...(I);
  const V first = __builtin_shufflevector(upper, lower, (I & Step ? kWide + I - Step : I)...);
  lower = __builtin_shufflevector(upper, lower, (I & Step ? kWide + I : I + Step)...);
  upper = first;
}

template <int Step, class V, int Wide>
void transpose_steps(V (&rows)[Wide]) {
  if constexpr (Step < Wide) {
#pragma GCC unroll 16
    for (int i = 0; i < Wide; ++i)
      if ((i & Step) == 0)
        exchange<Step>(rows[i], rows[i + Step], std::make_index_sequence<Wide>{});
    transpose_steps<2 * Step>(rows);
  }
}

/// A square of a vector's width, through registers.
template <class T>
void transpose_square(T* to, std::int64_t ld_to, const T* from, std::int64_t ld_from) {
  Vector<T> rows[kWidth<T>];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) rows[i] = load(from + i * ld_from);
  transpose_steps<1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) store(to + i * ld_to, rows[i]);
}

}  // namespace

template <class T>
StripShape strip_shape() {
  return {kRows, kWidth<T>, kWidth<T> * kVectors};
}

template <class T>
void multiply_strip(std::int64_t rows, std::int64_t depth, std::int64_t begin, std::int64_t end,
                    T alpha, const Strip<T>& a, const Panels<T>& b, T* c, std::int64_t ldc,
                    Accumulate accumulate) {
  constexpr std::int64_t kPanel = kWidth<T> * kVectors;
  if (begin >= end) return;
  for (std::int64_t column = begin / kWidth<T> * kWidth<T>; column < end;) {
    const std::int64_t offset = column % kPanel;
    const std::int64_t vectors =
        std::min(kVectors - offset / kWidth<T>, (end - column + kWidth<T> - 1) / kWidth<T>);
    kKernels<T>[std::size_t((rows - 1) * kVectors + vectors - 1)](
        depth, alpha, a.data, a.row, a.step, b.data + column / kPanel * b.panel_stride + offset,
        b.ld, c + column, ldc, accumulate);
    column += vectors * kWidth<T>;
  }
}

template <class T>
T largest(const T* row, std::int64_t begin, std::int64_t end) {
  return reduce(row, begin, end, -std::numeric_limits<T>::infinity(),
                [](auto a, auto b) { return a > b ? a : b; });
}

template <class T>
T sum(const T* row, std::int64_t begin, std::int64_t end) {
  return reduce(row, begin, end, T(0), [](auto a, auto b) { return a + b; });
}

template <class T>
void pack_transposed(T* panels, const T* from, std::int64_t ld, std::int64_t rows,
                     std::int64_t width) {
  constexpr std::int64_t kPanel = kWidth<T> * kVectors;
  for (std::int64_t first = 0; first < rows; first += kWidth<T>) {
    const std::int64_t count = std::min(kWidth<T>, rows - first);
    T* const to = panels + first / kPanel * kPanel * width + first % kPanel;
    const T* const source = from + first * ld;
    std::int64_t c = 0;
    if (count == kWidth<T>)
      for (; c + kWidth<T> <= width; c += kWidth<T>)
        transpose_square(to + c * kPanel, kPanel, source + c, ld);
    for (; c < width; ++c)
      for (std::int64_t i = 0; i < kWidth<T>; ++i)
        to[c * kPanel + i] = i < count ? source[i * ld + c] : T(0);
  }
}

template <class T>
void pack_rows(T* to, std::int64_t ld_to, const T* from, std::int64_t ld_from, std::int64_t rows,
               std::int64_t width) {
  for (std::int64_t i = 0; i < rows; ++i, to += ld_to, from += ld_from) {
    std::int64_t c = 0;
    // Rows are short: a call of memcpy for each would cost more than the copy.
    for (; c + kWidth<T> <= width; c += kWidth<T>) store(to + c, load(from + c));
    for (; c < ld_to; ++c) to[c] = c < width ? from[c] : T(0);
  }
}

template float largest(const float*, std::int64_t, std::int64_t);
template double largest(const double*, std::int64_t, std::int64_t);
template float sum(const float*, std::int64_t, std::int64_t);
template double sum(const double*, std::int64_t, std::int64_t);
template void pack_transposed(float*, const float*, std::int64_t, std::int64_t, std::int64_t);
template void pack_transposed(double*, const double*, std::int64_t, std::int64_t, std::int64_t);
template void pack_rows(float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                        std::int64_t);
template void pack_rows(double*, std::int64_t, const double*, std::int64_t, std::int64_t,
                        std::int64_t);
template StripShape strip_shape<float>();
template StripShape strip_shape<double>();
template void multiply_strip(std::int64_t, std::int64_t, std::int64_t, std::int64_t, float,
                             const Strip<float>&, const Panels<float>&, float*, std::int64_t,
                             Accumulate);
template void multiply_strip(std::int64_t, std::int64_t, std::int64_t, std::int64_t, double,
                             const Strip<double>&, const Panels<double>&, double*, std::int64_t,
                             Accumulate);

}  // namespace quietformer
