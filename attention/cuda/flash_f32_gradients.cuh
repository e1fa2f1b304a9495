// What the kernels of the backward of `flash` in f32 make of a tile of products: weights, and
// gradients of the scores or delta terms.
#pragma once

#include "attention/cuda/flash_f32_tile.cuh"
#include "attention/normalizer/normalizer.h"

namespace quietformer::cuda {

/// Weights and gradients of the scores of one tile.
template <class N>
struct TileGradients {
  TileScores scores;
  typename N::template Parameters<float> parameters;
  std::int64_t head_rows;  // of row 0 of the sequence in (B, H, L)

  __device__ TileGradients(const FlashF32Call& call, const SequencePlace& s, int batch, int head,
                           int pair)
      : scores{call, s, head, pair},
        parameters(load_parameters<N, float>(call.p, head)),
        head_rows((std::int64_t{batch} * call.p.heads + head) * call.p.queries + s.first_query) {}

  /// In: products, and gradients of the dropped weights. Out: dropped weights, and gradients of the
  /// scores; parameter gradients are added to `sums`. `scratch` holds a tile of scores.
  template <int R>
  __device__ void operator()(float (&weights)[R][kCells], float (&grads)[R][kCells],
                             std::int64_t first_query, std::int64_t first_key, float* scratch,
                             double (&sums)[kMaxHeadParameters]) const {
    for_elements<true>(
        weights, grads, first_query, first_key, scratch,
        [&](const Element<float>& e, float delta, const auto& row, float factor, float& weight,
            float& grad) {
          const float dscore = N::dscore(e, delta, row, parameters);
          if constexpr (N::has_element_gradients) {
#pragma unroll
            for (int k = 0; k < kParameters<N>; ++k)
              sums[k] += static_cast<double>(N::element_gradient(k, e, dscore, row, parameters));
          }
          weight = e.weight * factor;
          grad = dscore;
        });
  }

  /// The same in; adds to the sums of DeltaRule::share_mean of the rows.
  template <int R>
  __device__ void add_delta_terms(float (&weights)[R][kCells], float (&grads)[R][kCells],
                                  std::int64_t first_query, std::int64_t first_key, float* scratch,
                                  DeltaSums<double> (&sums)[R]) const {
    for_elements<false>(
        weights, grads, first_query, first_key, scratch,
        [&](const Element<float>& e, float, const auto& row, float, float& weight, float& grad) {
          weight = e.share;
          grad = e.share * N::delta_term(e, row, parameters);
        });
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float terms = 0, shares = 0;
#pragma unroll
      for (int c = 0; c < kCells; ++c) terms += grads[r][c], shares += weights[r][c];
      sums[r].terms += static_cast<double>(terms);
      sums[r].shares += static_cast<double>(shares);
    }
  }

 private:
  /// f(element, delta, row, dropout factor, weights[r][c], grads[r][c]) for all of a tile.
  template <bool with_delta, int R, class F>
  __device__ __forceinline__ void for_elements(float (&weights)[R][kCells],
                                               float (&grads)[R][kCells], std::int64_t first_query,
                                               std::int64_t first_key, float* scratch,
                                               F&& f) const {
    const FlashF32Call& call = scores.call;
    scores.adjust(weights, first_query, first_key);
    if (call.p.dropout) scores.template store_factors<R>(scratch, first_query, first_key);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const std::int64_t i = first_query + tile_y() * R + r;
      const bool inside = i < scores.sequence.queries;
      typename N::template Row<float> row{};
      if constexpr (N::row_normalised)
        row = N::restore(inside ? call.p.row_state[head_rows + i] : 0.0f);
      float delta = 0;
      if constexpr (with_delta && N::delta_rule != DeltaRule::none)
        delta = inside ? call.delta[head_rows + i] : 0.0f;
#pragma unroll
      for (int c = 0; c < kCells; ++c) {
        const float factor = call.p.dropout ? TileScores::stored<R>(scratch, r, c) : 1.0f;
        f(element_of<N>(weights[r][c], grads[r][c] * factor, row, parameters), delta, row, factor,
          weights[r][c], grads[r][c]);
      }
    }
    if (call.p.dropout) __syncwarp();
  }
};

}  // namespace quietformer::cuda
