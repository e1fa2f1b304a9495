// The options that tests of attention on a GPU combine, and the pairs that the build has.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

#include "core/math.h"
#include "tests/attention/cuda/gpu_case.h"
#include "tests/attention/option_grid.h"

namespace quietformer::test {

template <class V, class F>
OptionValues values_of(const std::vector<V>& list, F&& set) {
  OptionValues values;
  for (const V& value : list)
    values.push_back([=](CaseOptions& o) { set(static_cast<GpuOptions&>(o), value); });
  return values;
}

inline std::vector<OptionValues> gpu_options() {
  const std::vector<int> lengths{1, 63, 64, 65, 128, 129, 513, 1024};
  const double nothing = -math::kInfinity<double>;
  return {
      values_of<DType>({DType::bf16, DType::f16}, [](GpuOptions& o, DType t) { o.storage = t; }),
      values_of<int>(lengths, [](GpuOptions& o, int L) { o.L = L; }),
      values_of<int>(lengths, [](GpuOptions& o, int S) { o.S = S; }),
      values_of<int>({16, 40, 64, 80, 128, 160, 256}, [](GpuOptions& o, int D) { o.D = o.Dv = D; }),
      values_of<int>(
          {0, 24, -3},
          [](GpuOptions& o, int more) { o.Dv = std::min<std::int64_t>(o.Dv + more, 256); }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool causal) { o.causal = causal; }),
      values_of<std::pair<int, int>>({{2, 2}, {4, 2}, {3, 1}},
                                     [](GpuOptions& o, std::pair<int, int> heads) {
                                       o.H = heads.first, o.Hk = heads.second;
                                       // Enough rows that their largest error is a typical one.
                                       o.B = o.L * o.S > 300 * 300
                                                 ? 1
                                                 : std::max<std::int64_t>(2, 16 / o.L);
                                     }),
      values_of<Rows>(
          {Rows::heads_first, Rows::rows_first, Rows::slice_of_packed, Rows::misaligned},
          [](GpuOptions& o, Rows rows) { o.rows = rows; }),
      // n and sink logit of softmax_n; of sigmoid the bias, -ln S among them; gamma and zeta.
      values_of<std::pair<double, double>>(
          {{0, nothing}, {1, nothing}, {4, nothing}, {0, 0.5}, {0.5, 100}},
          [](GpuOptions& o, std::pair<double, double> sink) {
            if (o.normalizer == "softmax_n")
              o.parameters = {sink.first, sink.second};
            else if (o.normalizer == "clipped_softmax")
              o.parameters = {sink.first == 1 ? -0.03 : -sink.first / double(o.S),
                              sink.first == 4 ? 1 : 1.05};
            else
              o.parameters = {sink.first == 1 ? 0.5 : -std::log(double(o.S))};
          }),
      values_of<std::array<std::int64_t, 2>>(
          {{-1, -1}, {-1, -1}, {100, -1}, {0, 70}},
          [](GpuOptions& o, std::array<std::int64_t, 2> window) { o.window = window; }),
      values_of<int>({0, 1, 70, 600},
                     [](GpuOptions& o, int threshold) {
                       o.threshold = o.score == Score::piecewise ? threshold : 0;
                     }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool total) { o.total_attention = total; }),
      // Size of the scores, the last with the sign of the scale changed.
      values_of<double>(
          {1, 5, 1e-3, -2},
          [](GpuOptions& o, double size) { o.scale = size * default_scale(o.score, o.D); }),
  };
}

/// What general kernels add; sizes are small, the fast kernels' test has the large ones.
inline std::vector<OptionValues> general_options() {
  const auto nothing = [](GpuOptions&) {};
  const auto lengths = [](int L, int S) {
    return [=](GpuOptions& o) {
      o.L = L, o.S = S;
      // Gradients of one query hang on few roundings: enough of them that the largest is typical.
      if (L == 1) o.B = 16;
    };
  };
  // More sequences than fit a tile, empty ones, ones of several tiles.
  const auto packed = [](std::vector<int> queries, std::vector<int> keys) {
    return [=](GpuOptions& o) {
      o.queries = queries, o.keys = keys;
      o.L = *std::max_element(queries.begin(), queries.end());  // shapes of bias and mask
      o.S = *std::max_element(keys.begin(), keys.end());
    };
  };
  const auto shape = [](Shape CaseOptions::*member, bool b, bool h, bool i, bool j) {
    return [=](GpuOptions& o) {
      const std::int64_t batch = o.queries.empty() ? o.B : std::int64_t(o.queries.size());
      o.*member = {b ? batch : 1, h ? o.H : 1, i ? o.L : 1, j ? o.S : 1};
    };
  };
  const auto edits = [](std::initializer_list<std::function<void(GpuOptions&)>> list) {
    return values_of<std::function<void(GpuOptions&)>>(
        list, [](GpuOptions& o, const std::function<void(GpuOptions&)>& edit) { edit(o); });
  };
  const auto bias = [&](bool b, bool h, bool i, bool j) {
    return shape(&GpuOptions::bias, b, h, i, j);
  };
  const auto mask = [&](bool b, bool h, bool i, bool j) {
    return shape(&GpuOptions::mask, b, h, i, j);
  };
  return {
      values_of<DType>({DType::bf16, DType::f16}, [](GpuOptions& o, DType t) { o.storage = t; }),
      edits({lengths(130, 130), lengths(65, 200), lengths(200, 65), lengths(1, 77),
             packed({1, 0, 150, 64, 3, 20}, {5, 7, 150, 129, 0, 30}),
             packed({128, 127, 1, 1, 1}, {64, 65, 1, 2, 200})}),
      values_of<int>({16, 40, 64, 96, 128, 200, 256}, [](GpuOptions& o, int D) { o.D = o.Dv = D; }),
      values_of<int>(
          {0, 24, -3},
          [](GpuOptions& o, int more) { o.Dv = std::min<std::int64_t>(o.Dv + more, 256); }),
      edits({nothing, [](GpuOptions& o) { o.H = 4; }, [](GpuOptions& o) { o.Hk = 1; }}),
      edits({nothing, bias(true, true, true, true), bias(false, true, true, true),
             bias(false, false, true, true), bias(true, false, false, true),
             bias(false, true, false, false), bias(true, true, true, false)}),
      edits({nothing, mask(true, true, true, true), mask(true, false, false, true),
             mask(false, true, true, false)}),
      values_of<bool>({false, true}, [](GpuOptions& o, bool padding) { o.key_padding = padding; }),
      values_of<int>({0, 1, 2}, [](GpuOptions& o, int rank) { o.alibi_rank = rank; }),
      values_of<double>({0, 0.1, 0.7}, [](GpuOptions& o, double p) { o.dropout = p; }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool causal) { o.causal = causal; }),
      values_of<std::array<std::int64_t, 2>>(
          {{-1, -1}, {30, -1}, {0, 20}},
          [](GpuOptions& o, std::array<std::int64_t, 2> window) { o.window = window; }),
      values_of<Rows>({Rows::heads_first, Rows::slice_of_packed, Rows::misaligned},
                      [](GpuOptions& o, Rows rows) { o.rows = rows; }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool total) { o.total_attention = total; }),
      values_of<double>({0, -math::kInfinity<double>},
                        [](GpuOptions& o, double small) {
                          const bool first = small == 0;
                          if (o.normalizer == "softmax_n")
                            o.parameters = {first ? 0.0 : 1.0};
                          else if (o.normalizer == "clipped_softmax")
                            o.parameters = {first ? -0.03 : -1 / double(o.S), first ? 1.0 : 1.1};
                          else
                            o.parameters = {first ? 0.5 : -std::log(double(o.S))};
                        }),
      values_of<int>({1, 2, 4},
                     [](GpuOptions& o, int groups) {
                       if (o.score == Score::cosine && o.D % groups == 0) o.groups = groups;
                       if (o.score == Score::piecewise) o.threshold = 20 * groups;
                     }),
      values_of<double>({1, -2}, [](GpuOptions& o,
                                    double size) { o.scale = size * default_scale(o.score, o.D); }),
  };
}

inline std::string describe(const GpuOptions& o) {
  return describe(static_cast<const CaseOptions&>(o)) + " D=" + std::to_string(o.D) + " " +
         std::string(name_of(o.storage)) + " rows=" + std::to_string(int(o.rows));
}

inline Tensor gpu_tensor(DType dtype, const Shape& shape) {
  return Tensor(nullptr, dtype, shape, kGpu);
}

/// Whether QUIETFORMER_ATTENTION_INSTANCES has the kernels of a case.
inline bool built(const GpuOptions& o) {
  AttentionProblem p;
  p.q = p.k = gpu_tensor(o.storage, {1, 1, 1, o.D});
  p.v = gpu_tensor(o.storage, {1, 1, 1, o.Dv});
  p.score = o.score;
  p.groups = o.groups;
  p.normalizer = find_normalizer(o.normalizer).name;
  const AttentionImplementation& flash = cuda::flash_implementation();
  return !flash.why_not(p, Direction::forward) && !flash.why_not(p, Direction::backward);
}

/// The pairs that it has for some type and head dim.
inline std::vector<Pair> built_pairs() {
  std::vector<Pair> pairs = all_pairs();
  std::erase_if(pairs, [](const Pair& pair) {
    GpuOptions o;
    o.score = std::get<0>(pair);
    o.normalizer = std::get<1>(pair);
    for (o.storage = DType::bf16;; o.storage = DType::f16) {
      for (o.D = o.Dv = 64; o.D <= 256; o.D = o.Dv = 2 * o.D)
        if (built(o)) return false;
      if (o.storage == DType::f16) return true;
    }
  });
  return pairs;
}

/// Calls f(options) for a covering set of combinations, of which it leaves out those that the build
/// does.
template <class F>
void for_each_built(const GpuOptions& pair, const std::vector<OptionValues>& options,
                    std::uint32_t seed, F&& f) {
  std::uint32_t cases = 0, left_out = 0;
  for (const std::vector<int>& row : covering_array(options, seed)) {
    GpuOptions o = pair;
    o.seed = ++cases;
    for (std::size_t i = 0; i < options.size(); ++i) options[i][std::size_t(row[i])](o);
    if (!built(o)) {
      ++left_out;
      continue;
    }
    f(o);
    if (testing::Test::HasFatalFailure()) return;
  }
  std::printf("%u cases, %u more are not in this build\n", cases - left_out, left_out);
}

}  // namespace quietformer::test
