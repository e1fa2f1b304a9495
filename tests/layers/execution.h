// Runs an OpCase.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "tests/layers/op_case.h"
#include "tests/support/tensors.h"

namespace quietformer::test {

/// Inputs, output and gradients of one run, every written tensor guarded.
struct Execution {
  /// `values`: inputs are rounded to this type first, so that runs in several types share them.
  Execution(const OpCase& c, DType dtype, int threads = 1, Device device = {},
            std::optional<DType> values = {})
      : op(c) {
    const DType wide = accumulation_dtype(dtype);
    const auto random = [&](DType to, const Shape& shape, std::uint32_t seed, double mean,
                            bool rounds) {
      const DType from = rounds ? values.value_or(dtype) : to;
      return copy_to(device, copy_as(normal(from, shape, seed, 1, mean), to));
    };
    ctx.device = device;
    ctx.threads = threads;
    ctx.mode = c.mode;
    ctx.random = {11, 2, 5};
    std::uint32_t seed = 1;
    for (const OpInput& input : c.inputs) {
      inputs.push_back(
          random(input.wide ? wide : dtype, input.shape, seed++, input.mean, !input.wide));
      views.push_back(inputs.back());
      d_inputs.emplace_back(input.gradient == Writes::accumulates ? wide : dtype, input.shape,
                            device);
      d_views.push_back(d_inputs.back());
    }
    y = GuardedTensor(dtype, c.output, device);
    dy = random(dtype, c.output, 50, 0, true);
  }

  void forward() { op.forward(ctx, y, views); }
  OwnedTensor output() const { return copy_to({}, y); }

  /// Leaves in `gradients`, on the host, what was written, or what was added to what was there.
  void backward() {
    for (const Tensor& d : d_views) fill_any(d, kBefore);
    op.backward(ctx, d_views, dy, views);
    gradients.clear();
    for (std::size_t i = 0; i < d_views.size(); ++i) {
      const Tensor& gradient = gradients.emplace_back(copy_to({}, d_views[i]));
      if (op.inputs[i].gradient == Writes::accumulates)
        for (std::int64_t k = 0; k < gradient.count(); ++k)
          set(gradient, k, get(gradient, k) - kBefore);
    }
  }

  /// Of an execution on the host.
  double loss() {
    forward();
    double sum = 0;
    for (std::int64_t i = 0; i < dy.view().count(); ++i) sum += get(y, i) * get(dy, i);
    return sum;
  }

  void expect_guards() const {
    EXPECT_TRUE(y.intact()) << op.name;
    for (const GuardedTensor& d : d_inputs) EXPECT_TRUE(d.intact()) << op.name;
  }

  static constexpr double kBefore = 2;
  const OpCase& op;
  Context ctx;
  std::vector<OwnedTensor> inputs, gradients;
  std::vector<GuardedTensor> d_inputs;
  Tensors views, d_views;
  GuardedTensor y;
  OwnedTensor dy;
};

}  // namespace quietformer::test
