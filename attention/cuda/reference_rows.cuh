// Row passes of the reference on a GPU: a block of threads per row of scores. They mirror
// attention/reference_rows.h, sums over a row in f64 included.
#pragma once

#include "attention/cuda/reference_steps.h"
#include "attention/cuda/row_problem.cuh"
#include "attention/normalizer/normalizer.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {

inline constexpr int kRowThreads = 256;

/// The row of this block of threads.
template <class T>
struct ReferenceRow {
  int x, batch, head;
  std::int64_t row;  // of the batch entry
  SequencePlace sequence;
  std::int64_t i;       // of the sequence
  KeyRange keys;        // visible ones, counted as the columns are
  std::int64_t offset;  // of column 0 in blocks of scores
  std::int64_t index;   // in (B, H, L) outputs

  __device__ ReferenceRow(const RowProblem<T>& p, const RowBlock& b)
      : x(static_cast<int>(blockIdx.y)),
        batch(b.batch(x)),
        head(b.head(x, p.group)),
        row(b.first_row + blockIdx.x),
        sequence(sequence_of(p, batch, row)),
        i(row - sequence.first_query),
        keys(visible_keys(p, sequence, i)),
        offset(b.at(x, blockIdx.x)),
        index((std::int64_t{batch} * p.heads + head) * p.queries + row) {
    keys.begin += sequence.first_key, keys.end += sequence.first_key;
  }

  /// f(column) for the thread's part of the visible keys.
  template <class F>
  __device__ void for_keys(F&& f) const {
    for (std::int64_t c = keys.begin + threadIdx.x; c < keys.end; c += kRowThreads) f(c);
  }

  /// Zeros over the columns of the range that the row does not see.
  __device__ void zero_outside(T* scores, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t c = begin + threadIdx.x; c < end; c += kRowThreads)
      if (c < keys.begin || c >= keys.end) scores[c] = T(0);
  }
};

struct Greater {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

template <class N, class T>
__device__ void write_row_outputs(const RowProblem<T>& p, std::int64_t at,
                                  const typename N::template Partial<double>& partial,
                                  const typename N::template Row<double>& row,
                                  const typename N::template Parameters<double>& parameters) {
  const RowOutputs<double> outputs = N::outputs(partial, row, parameters);
  if (p.row_state != nullptr) p.row_state[at] = static_cast<T>(N::saved(row));
  if (p.lse != nullptr) p.lse[at] = static_cast<T>(outputs.lse);
  if (p.lse_scores != nullptr) p.lse_scores[at] = static_cast<T>(outputs.lse_scores);
  if (p.sink_mass != nullptr) p.sink_mass[at] = static_cast<T>(outputs.sink_mass);
}

template <class N, class T>
__global__ void __launch_bounds__(kRowThreads)
    weigh_kernel(const RowProblem<T> p, const RowBlock b, T* scores, T* weights) {
  const ReferenceRow<T> at(p, b);
  const RowScores<T> adjust(p, at.sequence, at.head, at.i);
  const auto parameters = load_parameters<N, double>(p, at.head);
  const std::int64_t first_key = at.sequence.first_key;
  T* const row_of_scores = scores + at.offset;
  double weight_sum = 0;
  if constexpr (N::row_normalised) {
    T high = -math::kInfinity<T>;
    at.for_keys([&](std::int64_t c) {
      const T score = adjust(row_of_scores[c], c - first_key);
      row_of_scores[c] = score;
      high = score > high ? score : high;
    });
    typename N::template Partial<double> partial;
    N::raise(partial, static_cast<double>(block_reduce<kRowThreads>(high, Greater())));
    double sum = 0;
    at.for_keys([&](std::int64_t c) {
      const T term = N::term(row_of_scores[c], partial);
      if constexpr (!N::weights_need_final_row) row_of_scores[c] = term;
      sum += static_cast<double>(term);
    });
    N::add(partial, block_reduce<kRowThreads>(sum, Plus()));
    const auto row = N::finish(partial, parameters);
    T scale = 1;
    if constexpr (!N::weights_need_final_row) scale = static_cast<T>(N::scale(partial, parameters));
    at.for_keys([&](std::int64_t c) {
      T weight = row_of_scores[c];
      if constexpr (N::weights_need_final_row)
        weight = N::weight(weight, row, parameters);
      else
        weight *= scale;
      row_of_scores[c] = weight;
      weight_sum += static_cast<double>(weight);
    });
    if (threadIdx.x == 0) write_row_outputs<N>(p, at.index, partial, row, parameters);
  } else {
    const typename N::template Row<double> row;
    at.for_keys([&](std::int64_t c) {
      const T weight = N::weight(adjust(row_of_scores[c], c - first_key), row, parameters);
      row_of_scores[c] = weight;
      weight_sum += static_cast<double>(weight);
    });
  }
  if (p.row_sum != nullptr) {
    weight_sum = block_reduce<kRowThreads>(weight_sum, Plus());
    if (threadIdx.x == 0) p.row_sum[at.index] = static_cast<T>(weight_sum);
  }
  at.zero_outside(row_of_scores, b.key_begin, b.key_end);
  if (weights != nullptr) {
    T* const out = weights + at.index * p.keys;
    at.for_keys([&](std::int64_t c) { out[c] = row_of_scores[c]; });
    at.zero_outside(out, 0, p.keys);
  }
}

template <class N, class T>
__global__ void __launch_bounds__(kRowThreads)
    differentiate_kernel(const RowProblem<T> p, const RowBlock b, T* scores, T* grads,
                         const MatrixView<const T> o, const MatrixView<const T> d_out,
                         double* sums) {
  const ReferenceRow<T> at(p, b);
  const RowScores<T> adjust(p, at.sequence, at.head, at.i);
  const auto parameters = load_parameters<N, double>(p, at.head);
  const std::int64_t first_key = at.sequence.first_key;
  T *const row_of_scores = scores + at.offset, *const row_of_grads = grads + at.offset;
  typename N::template Row<double> row{};
  if constexpr (N::row_normalised) row = N::restore(static_cast<double>(p.row_state[at.index]));
  const auto element = [&](std::int64_t c) {
    return element_of<N>(row_of_scores[c], row_of_grads[c], row, parameters);
  };
  at.for_keys([&](std::int64_t c) { row_of_scores[c] = adjust(row_of_scores[c], c - first_key); });
  double delta = 0;
  if constexpr (N::delta_rule == DeltaRule::output_dot) {
    const T *const out = o.at(at.batch, at.head, at.row), *const gradient =
                                                              d_out.at(at.batch, at.head, at.row);
    for (int c = static_cast<int>(threadIdx.x); c < p.value_dim; c += kRowThreads)
      delta += static_cast<double>(out[c]) * static_cast<double>(gradient[c]);
  }
  if constexpr (N::delta_rule == DeltaRule::share_mean) {
    DeltaSums<double> row_sums;
    at.for_keys([&](std::int64_t c) {
      const Element<T> e = element(c);
      row_sums.terms += static_cast<double>(e.share * N::delta_term(e, row, parameters));
      row_sums.shares += static_cast<double>(e.share);
    });
    row_sums.terms = block_reduce<kRowThreads>(row_sums.terms, Plus());
    row_sums.shares = block_reduce<kRowThreads>(row_sums.shares, Plus());
    delta = row_sums.mean();
  } else if constexpr (N::delta_rule == DeltaRule::output_dot) {
    delta = block_reduce<kRowThreads>(delta, Plus());
  }
  const T shift = static_cast<T>(delta);
  double parameter_sums[kMaxHeadParameters] = {};
  at.for_keys([&](std::int64_t c) {
    const Element<T> e = element(c);
    const T dscore = N::dscore(e, shift, row, parameters);
    row_of_grads[c] = dscore;
    row_of_scores[c] = e.weight;
    if constexpr (N::has_element_gradients) {
#pragma unroll
      for (int k = 0; k < kParameters<N>; ++k)
        parameter_sums[k] +=
            static_cast<double>(N::element_gradient(k, e, dscore, row, parameters));
    }
  });
  if constexpr (N::has_element_gradients) {
#pragma unroll
    for (int k = 0; k < kParameters<N>; ++k)
      parameter_sums[k] = block_reduce<kRowThreads>(parameter_sums[k], Plus());
  }
  if constexpr (N::has_row_gradients) N::row_gradients(parameter_sums, delta, row, parameters);
  if (threadIdx.x < kMaxHeadParameters)
    sums[(std::int64_t{at.x} * b.rows + blockIdx.x) * kMaxHeadParameters + threadIdx.x] =
        parameter_sums[threadIdx.x];
  at.zero_outside(row_of_scores, b.key_begin, b.key_end);
  at.zero_outside(row_of_grads, b.key_begin, b.key_end);
}

inline LaunchShape shape_of(const RowBlock& b) {
  return {dim3(static_cast<unsigned>(b.rows), static_cast<unsigned>(b.tasks)), dim3(kRowThreads)};
}

template <class N>
template <class T>
void ReferenceRows<N>::weigh(const Context& ctx, const RowProblem<T>& problem,
                             const RowBlock& block, T* scores, T* weights) {
  launch(ctx, "attention weights", shape_of(block), weigh_kernel<N, T>, problem, block, scores,
         weights);
}

template <class N>
template <class T>
void ReferenceRows<N>::differentiate(const Context& ctx, const RowProblem<T>& problem,
                                     const RowBlock& block, T* scores, T* grads,
                                     const MatrixView<const T>& o, const MatrixView<const T>& d_out,
                                     double* sums) {
  launch(ctx, "gradients of attention weights", shape_of(block), differentiate_kernel<N, T>,
         problem, block, scores, grads, o, d_out, sums);
}

}  // namespace quietformer::cuda
