// Passes over one row of scores or gradients that the CPU implementations share.
//
// A row points at its key 0; only keys in range are read and written.
#pragma once

#include "attention/mask.h"
#include "core/math.h"

namespace quietformer {

/// Sum of f(j) over the range, in double, in an order that the compiler chooses.
template <class F>
double sum_keys(KeyRange keys, F&& f) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = keys.begin; j < keys.end; ++j) sum += double(f(j));
  return sum;
}

template <class T>
T max_score(const T* scores, KeyRange keys) {
  T high = -math::kInfinity<T>;
#pragma omp simd reduction(max : high)
  for (std::int64_t j = keys.begin; j < keys.end; ++j) high = scores[j] > high ? scores[j] : high;
  return high;
}

template <class T>
void multiply(T* row, KeyRange keys, const T* factors) {
#pragma omp simd
  for (std::int64_t j = keys.begin; j < keys.end; ++j) row[j] *= factors[j];
}

/// Adds a row of bias, whatever its broadcast.
template <class T>
void add_bias(T* scores, KeyRange keys, RowView<T> bias) {
  if (bias.stride == 1) {
#pragma omp simd
    for (std::int64_t j = keys.begin; j < keys.end; ++j) scores[j] += bias.data[j];
  } else {
    for (std::int64_t j = keys.begin; j < keys.end; ++j) scores[j] += bias[j];
  }
}

template <class T>
void subtract_alibi(T* scores, KeyRange keys, T slope, std::int64_t position) {
#pragma omp simd
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const T distance = T(position - j);
    scores[j] -= slope * (distance < 0 ? -distance : distance);
  }
}

}  // namespace quietformer
