// Combinations of all attention options such that every pair of values of two options occurs in
// some combination (a covering array of strength two), made greedily from a seed.
#pragma once

#include <functional>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "tests/attention/attention_case.h"

namespace quietformer::test {

/// One option and its values, as edits of CaseOptions. Values are applied in the order of
/// options().
using OptionValues = std::vector<std::function<void(CaseOptions&)>>;

/// Sizes are set first, so that shapes of bias and mask can follow them.
inline std::vector<OptionValues> all_options() {
  const auto lengths = [](std::int64_t L, std::int64_t S) {
    return [=](CaseOptions& o) { o.L = L, o.S = S; };
  };
  const auto heads = [](std::int64_t H, std::int64_t Hk) {
    return [=](CaseOptions& o) { o.H = H, o.Hk = Hk; };
  };
  const auto window = [](std::int64_t left, std::int64_t right) {
    return [=](CaseOptions& o) { o.window = {left, right}; };
  };
  // Which of B, H, L and S are full; the others are 1.
  const auto shape = [](Shape CaseOptions::*member, bool b, bool h, bool i, bool j) {
    return [=](CaseOptions& o) {
      const bool packed = !o.queries.empty();
      const std::int64_t batch = packed ? std::int64_t(o.queries.size()) : o.B;
      o.*member = {b ? batch : 1, h ? o.H : 1, i ? o.L : 1, j ? o.S : 1};
    };
  };
  const auto nothing = [](CaseOptions&) {};
  const auto packed = [](CaseOptions& o) {
    o.queries = {2, 0, 4}, o.keys = {3, 2, 2};
    o.L = 4, o.S = 3;  // the longest: shapes of bias and mask
  };
  OptionValues biases{nothing};
  for (int full = 0; full < 8; ++full)
    biases.push_back(shape(&CaseOptions::bias, full & 1, full & 2, full & 4, true));
  biases.push_back(shape(&CaseOptions::bias, true, true, true, false));
  biases.push_back(shape(&CaseOptions::bias, false, true, false, false));
  return {
      {lengths(4, 4), lengths(3, 5), lengths(5, 3), packed},
      {heads(2, 2), heads(2, 1), heads(4, 2)},
      biases,
      {nothing, shape(&CaseOptions::mask, true, true, true, true),
       shape(&CaseOptions::mask, true, false, false, true),
       shape(&CaseOptions::mask, false, true, true, false)},
      {nothing, [](CaseOptions& o) { o.causal = true; }},
      {window(-1, -1), window(1, -1), window(-1, 0), window(1, 2)},
      {nothing, [](CaseOptions& o) { o.key_padding = true; }},
      {nothing, [](CaseOptions& o) { o.alibi_rank = 1; }, [](CaseOptions& o) { o.alibi_rank = 2; }},
      {nothing, [](CaseOptions& o) { o.dropout = 0.3; }},
      {nothing, [](CaseOptions& o) { o.layout = Layout::rows_first; }},
      {nothing, [](CaseOptions& o) { o.Dv = 6; }},
      {nothing, [](CaseOptions& o) { o.scale = -1.7; }},
      {nothing, [](CaseOptions& o) { o.groups = 2, o.threshold = 1; },
       [](CaseOptions& o) { o.threshold = -1; }},
      {nothing,
       [](CaseOptions& o) {
         for (const HeadParameterInfo& info : find_normalizer(o.normalizer).parameters)
           o.parameters.push_back(info.example);
       },
       [](CaseOptions& o) {
         const auto& parameters = find_normalizer(o.normalizer).parameters;
         if (!parameters.empty()) o.parameters.push_back(parameters[0].example);
       }},
  };
}

/// Rows of the covering array: for each option the index of its value.
inline std::vector<std::vector<int>> covering_array(const std::vector<OptionValues>& options,
                                                    std::uint32_t seed) {
  using Values = std::tuple<int, int, int, int>;  // option, value, later option, its value
  const int count = int(options.size());
  std::set<Values> open;
  for (int a = 0; a < count; ++a)
    for (int b = a + 1; b < count; ++b)
      for (int x = 0; x < int(options[std::size_t(a)].size()); ++x)
        for (int y = 0; y < int(options[std::size_t(b)].size()); ++y) open.insert({a, x, b, y});
  std::mt19937 random(seed);
  std::vector<std::vector<int>> rows;
  while (!open.empty()) {
    std::vector<int> best;
    std::size_t best_gain = 0;
    for (int attempt = 0; attempt < 30; ++attempt) {
      std::vector<int> row;
      for (const OptionValues& values : options) row.push_back(int(random() % values.size()));
      const auto [a, x, b, y] = *std::next(open.begin(), std::ptrdiff_t(random() % open.size()));
      row[std::size_t(a)] = x, row[std::size_t(b)] = y;
      std::size_t gain = 0;
      for (int i = 0; i < count; ++i)
        for (int j = i + 1; j < count; ++j)
          gain += open.count({i, row[std::size_t(i)], j, row[std::size_t(j)]});
      if (gain > best_gain) best = row, best_gain = gain;
    }
    for (int i = 0; i < count; ++i)
      for (int j = i + 1; j < count; ++j)
        open.erase({i, best[std::size_t(i)], j, best[std::size_t(j)]});
    rows.push_back(best);
  }
  return rows;
}

/// Calls f(options) for a covering set of combinations of one (score, normaliser) pair.
template <class F>
void for_each_combination(Score score, std::string_view normalizer, std::uint32_t seed, F&& f) {
  const std::vector<OptionValues> options = all_options();
  std::uint32_t index = 0;
  for (const std::vector<int>& row : covering_array(options, seed)) {
    CaseOptions o;
    o.score = score;
    o.normalizer = normalizer;
    o.seed = ++index;
    for (std::size_t i = 0; i < options.size(); ++i) options[i][std::size_t(row[i])](o);
    if (score != Score::cosine) o.groups = 1;
    if (score != Score::piecewise) o.threshold = 0;
    f(o);
  }
}

/// Every score and normaliser of the build, and their pairs as test parameters.
using Pair = std::tuple<Score, std::string>;

inline std::vector<Score> all_scores() {
#define QF_VALUE(word, Type) Score::word,
  return {QUIETFORMER_SCORES(QF_VALUE)};
#undef QF_VALUE
}

inline std::vector<Pair> all_pairs() {
  std::vector<Pair> pairs;
  for (const Score score : all_scores())
    for (const NormalizerInfo& info : normalizers()) pairs.emplace_back(score, info.name);
  return pairs;
}

inline std::string pair_name(const testing::TestParamInfo<Pair>& info) {
  return std::string(name_of(std::get<0>(info.param))) + "_" + std::get<1>(info.param);
}

/// A line for SCOPED_TRACE.
inline std::string describe(const CaseOptions& o) {
  std::string text = std::string(name_of(o.score)) + "/" + o.normalizer;
  const auto add = [&](const char* name, auto value) {
    text += std::string(" ") + name + "=" + std::to_string(value);
  };
  add("seed", o.seed), add("B", o.B), add("H", o.H), add("Hk", o.Hk), add("L", o.L), add("S", o.S);
  add("Dv", o.Dv), add("packed", o.queries.size()), add("causal", o.causal);
  add("left", o.window[0]), add("right", o.window[1]), add("padding", o.key_padding);
  add("alibi", o.alibi_rank), add("dropout", o.dropout), add("groups", o.groups);
  add("threshold", o.threshold), add("scale", o.scale), add("parameters", o.parameters.size());
  return text + " mask=" + to_string(o.mask) + " bias=" + to_string(o.bias);
}

}  // namespace quietformer::test
