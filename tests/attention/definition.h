// Every forward output of a case against the element-by-element definition.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/attention/attention_case.h"
#include "tests/attention/naive.h"

namespace quietformer::test {

/// Whether NaiveAttention has this normaliser.
inline bool oracle_knows(const std::string& normalizer) {
  return normalizer == "softmax_n" || normalizer == "sigmoid" || normalizer == "clipped_softmax";
}

/// Compares every forward output with the element-by-element definition.
inline void expect_definition(const AttentionCase& c, double tolerance) {
  const AttentionProblem& p = c.problem;
  const NaiveAttention naive(p);
  AttentionProblem expected = p;
  std::vector<OwnedTensor> owned;
  const auto make = [&](const Tensor& like) {
    if (like.shape.rank == 0) return Tensor();
    return Tensor(owned.emplace_back(DType::f64, like.shape));
  };
  expected.o = make(p.o), expected.lse = make(p.lse), expected.lse_scores = make(p.lse_scores);
  expected.sink_mass = make(p.sink_mass), expected.row_sum = make(p.row_sum);
  expected.total_attention = make(p.total_attention), expected.weights = make(p.weights);
  const std::int64_t queries = p.q.shape[2], keys = p.k.shape[2];
  for (std::int64_t b = 0; b < p.batch(); ++b)
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const auto e = naive.extent(b);
      const std::int64_t head = e.batch * p.heads() + h;
      for (std::int64_t i = 0; i < e.queries; ++i) {
        const auto row = naive.row(b, h, i);
        const std::int64_t at = head * queries + e.first_query + i;
        Real sum = 0;
        for (std::int64_t j = 0; j < e.keys; ++j) {
          const Real weight = row.weights[std::size_t(j)];
          sum += weight;
          const std::int64_t key = head * keys + e.first_key + j;
          set(expected.total_attention, key, get(expected.total_attention, key) + double(weight));
          if (p.weights) set(expected.weights, at * keys + j, double(weight));
        }
        set(expected.row_sum, at, double(sum));
        const auto o = naive.output(b, h, i, row);
        for (std::size_t d = 0; d < o.size(); ++d)
          set(expected.o, at * std::int64_t(o.size()) + std::int64_t(d), double(o[d]));
        if (!p.lse) continue;
        set(expected.lse, at, double(row.lse));
        set(expected.lse_scores, at, double(row.lse_scores));
        set(expected.sink_mass, at, double(row.sink_mass));
      }
    }
  for (const auto& [name, actual, want] :
       {std::tuple{"o", p.o, expected.o},
        {"lse", p.lse, expected.lse},
        {"lse_scores", p.lse_scores, expected.lse_scores},
        {"sink_mass", p.sink_mass, expected.sink_mass},
        {"row_sum", p.row_sum, expected.row_sum},
        {"total_attention", p.total_attention, expected.total_attention},
        {"weights", p.weights, expected.weights}})
    if (actual) {
      EXPECT_TRUE(close(actual, want, tolerance)) << name;
    }
}

}  // namespace quietformer::test
