// Attention written once more, element by element from the definitions, in long double: the oracle
// of the forward tests. Knows every option and the normalisers softmax_n, sigmoid and
// clipped_softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attention.h"
#include "tests/support/tensors.h"

namespace quietformer::test {

using Real = long double;

/// Element of a rank-4 view.
inline Real at(const Tensor& t, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return Real(get(t, ((a * t.shape[1] + b) * t.shape[2] + c) * t.shape[3] + d));
}

class NaiveAttention {
 public:
  explicit NaiveAttention(const AttentionProblem& problem) : p_(problem) {}

  struct Extent {
    std::int64_t batch, first_query, queries, first_key, keys;
  };
  Extent extent(std::int64_t b) const {
    if (!p_.packed()) return {b, 0, p_.q.shape[2], 0, p_.k.shape[2]};
    const auto q = [&](std::int64_t i) { return std::int64_t(get(p_.cu_seqlens_q, i)); };
    const auto k = [&](std::int64_t i) { return std::int64_t(get(p_.cu_seqlens_k, i)); };
    return {0, q(b), q(b + 1) - q(b), k(b), k(b + 1) - k(b)};
  }

  bool visible(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const Extent e = extent(b);
    const std::int64_t position = i + e.keys - e.queries;
    if (p_.causal && j > position) return false;
    if (p_.window[0] >= 0 && j < position - p_.window[0]) return false;
    if (p_.window[1] >= 0 && j > position + p_.window[1]) return false;
    if (p_.mask && broadcast(p_.mask, b, h, i, j) == 0) return false;
    if (p_.key_padding && get(p_.key_padding, b * p_.key_padding.shape[1] + j) == 0) return false;
    return true;
  }

  Real score(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const Extent e = extent(b);
    const std::int64_t distance = i + e.keys - e.queries - j;
    const bool far = p_.score == Score::piecewise && distance >= p_.threshold;
    const Tensor &q = far ? p_.q2 : p_.q, &k = far ? p_.k2 : p_.k;
    const std::int64_t kv = h / (p_.heads() / p_.kv_heads()), dim = q.shape[3];
    const int groups = p_.score == Score::cosine ? p_.groups : 1;
    Real total = 0;
    for (int g = 0; g < groups; ++g) {
      Real dot = 0, q_square = 0, k_square = 0;
      for (std::int64_t c = g * dim / groups; c < (g + 1) * dim / groups; ++c) {
        const Real x = at(q, e.batch, h, e.first_query + i, c);
        const Real y = at(k, e.batch, kv, e.first_key + j, c);
        dot += x * y, q_square += x * x, k_square += y * y;
      }
      total += p_.score == Score::cosine ? dot / std::sqrt(q_square * k_square) : dot;
    }
    Real s = Real(p_.scale) * total;
    if (p_.bias) s += broadcast(p_.bias, b, h, i, j);
    if (p_.alibi_slopes) {
      const std::int64_t row = p_.alibi_slopes.shape.rank == 2 ? b * p_.heads() : 0;
      s -= Real(get(p_.alibi_slopes, row + h)) * std::abs(Real(distance));
    }
    return s;
  }

  struct Row {
    std::vector<Real> weights;  // one per key of the sequence
    Real lse = -INFINITY, lse_scores = -INFINITY, sink_mass = 0;
  };

  Row row(std::int64_t b, std::int64_t h, std::int64_t i) const {
    const std::int64_t keys = extent(b).keys;
    Row result;
    std::vector<Real> s(std::size_t(keys), -INFINITY);
    for (std::int64_t j = 0; j < keys; ++j)
      if (visible(b, h, i, j)) s[std::size_t(j)] = score(b, h, i, j);
    if (p_.normalizer == "sigmoid") {
      for (const Real x : s) result.weights.push_back(1 / (1 + std::exp(-(x + parameter(0, h)))));
      return result;
    }
    const bool clipped = p_.normalizer == "clipped_softmax";
    QF_EXPECTS(p_.normalizer == "softmax_n" || clipped);
    // Long double holds exp of all scores and sinks that the tests use: no shift at all.
    Real sum = 0;
    for (const Real x : s) sum += std::exp(x);
    const Real sink = clipped ? 0 : parameter(0, h) + std::exp(parameter(1, h));
    for (const Real x : s) result.weights.push_back(sum > 0 ? std::exp(x) / (sink + sum) : 0);
    if (clipped) {
      const Real gamma = parameter(0, h), zeta = parameter(1, h);
      for (Real& weight : result.weights)
        weight = std::clamp<Real>((zeta - gamma) * weight + gamma, 0, 1);
    }
    result.lse = std::log(sink + sum);
    result.lse_scores = std::log(sum);
    result.sink_mass = sink > 0 ? sink / (sink + sum) : 0;
    return result;
  }

  Real keep_factor(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const AttentionDropout& d = p_.dropout;
    if (d.probability == 0) return 1;
    return dropout_keep(d.key, dropout_threshold(d.probability), d.first_sample + std::uint32_t(b),
                        std::uint32_t(h), std::uint32_t(i), std::uint32_t(j))
               ? 1 / (1 - Real(d.probability))
               : 0;
  }

  /// Output row i: sum_j P_ij keep_ij v_j.
  std::vector<Real> output(std::int64_t b, std::int64_t h, std::int64_t i, const Row& r) const {
    const Extent e = extent(b);
    std::vector<Real> o(std::size_t(p_.v.shape[3]), 0);
    for (std::int64_t j = 0; j < e.keys; ++j)
      for (std::size_t c = 0; c < o.size(); ++c)
        o[c] +=
            r.weights[std::size_t(j)] * keep_factor(b, h, i, j) *
            at(p_.v, e.batch, h / (p_.heads() / p_.kv_heads()), e.first_key + j, std::int64_t(c));
    return o;
  }

 private:
  Real parameter(int k, std::int64_t h) const {
    if (p_.head_parameters[k]) return Real(get(p_.head_parameters[k], h));
    return Real(find_normalizer(p_.normalizer).parameters[std::size_t(k)].default_value);
  }

  static Real broadcast(const Tensor& t, std::int64_t b, std::int64_t h, std::int64_t i,
                        std::int64_t j) {
    const auto clip = [&](int dim, std::int64_t index) { return t.shape[dim] == 1 ? 0 : index; };
    return at(t, clip(0, b), clip(1, h), clip(2, i), clip(3, j));
  }

  const AttentionProblem& p_;
};

}  // namespace quietformer::test
