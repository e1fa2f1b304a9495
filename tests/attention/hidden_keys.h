// Keys that nobody sees may hold any finite number.
#pragma once

#include <cmath>

#include "tests/attention/attention_case.h"

namespace quietformer::test {

/// The largest finite number, or nearly.
inline double largest_of(DType dtype) {
  return dtype == DType::f64 ? 1e308 : (dtype == DType::f16 ? 65504 : 3e38);
}

/// The same bits and nothing but finite gradients when padding hides keys and values so large that
/// their products are infinite or not numbers. run(case) runs both directions.
template <class Run>
void expect_hidden_keys_not_to_matter(CaseOptions options, Run&& run) {
  options.key_padding = true, options.L = 70, options.S = 90;
  options.threshold = options.score == Score::piecewise ? 45 : 0;
  constexpr std::int64_t kFirst = 35, kCount = 20;
  AttentionCase plain(options), large(options);
  for (AttentionCase* c : {&plain, &large}) {
    AttentionProblem& p = c->problem;
    fill(p.key_padding, 1);
    fill(p.key_padding.slice(1, kFirst, kCount), 0);
    if (c == &large)
      for (const Tensor& t : {p.k, p.v, p.k2})
        if (t) {
          const Tensor hidden = t.slice(2, kFirst, kCount);
          for (std::int64_t i = 0; i < hidden.count(); ++i)
            set(hidden, i, i % 3 == 0 ? -largest_of(options.dtype) : largest_of(options.dtype));
        }
    run(*c);
  }
  for (const auto& [name, tensor] : large.results())
    EXPECT_FALSE(std::isnan(max_abs(tensor))) << name;
  expect_same_bits(large, plain);
}

}  // namespace quietformer::test
