// Every operation of layers/ on a GPU against the CPU (tests/layers/op_case.h), and what the cases
// cannot say. Skips with the reason where there is no GPU.
#include <gtest/gtest.h>

#include "layers/activation.h"
#include "layers/cross_entropy.h"
#include "layers/dropout.h"
#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/position.h"
#include "tests/layers/execution.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

class GpuOperations : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    ctx_.device = kGpu;
  }
  Context ctx_;
};

void run(Execution& execution) {
  execution.forward();
  execution.backward();
  execution.expect_guards();
}

TEST_F(GpuOperations, AgreeWithTheCpu) {
  for (const OpSize size : {OpSize::small, OpSize::large})
    for (const OpCase& c : op_cases(size)) {
      Execution exact(c, DType::f64);
      run(exact);
      for (const DType dtype : {DType::f64, DType::f32}) {
        // f64 differs by the order of sums, f32 as the CPU's may.
        const double tolerance = dtype == DType::f64 ? 1e-13 : 2e-5;
        Execution gpu(c, dtype, 1, kGpu);
        run(gpu);
        EXPECT_TRUE(close(gpu.output(), exact.y, tolerance)) << c.name << " " << name_of(dtype);
        for (std::size_t i = 0; i < c.inputs.size(); ++i)
          EXPECT_TRUE(close(gpu.gradients[i], exact.gradients[i], tolerance))
              << c.name << " " << c.inputs[i].name << " " << name_of(dtype);
      }
    }
}

/// Largest difference, and what a result rounded once from the exact one has at least.
double largest_error(const Tensor& got, const Tensor& exact) {
  double error = 0;
  for (std::int64_t i = 0; i < exact.count(); ++i) {
    const double difference = std::abs(get(got, i) - get(exact, i));
    if (!(difference <= error)) error = difference;
  }
  return error;
}

/// Sixteen-bit types: at most twice the error of a naive computation in that type, which rounds
/// every result of an operation, + 1e-5 of the largest value.
TEST_F(GpuOperations, SixteenBitTypesKeepTheTwofoldRule) {
  for (const DType dtype : {DType::bf16, DType::f16})
    for (const OpSize size : {OpSize::small, OpSize::large})
      for (const OpCase& c : op_cases(size)) {
        Execution exact(c, DType::f64, 1, {}, dtype), gpu(c, dtype, 1, kGpu);
        run(exact);
        run(gpu);
        const auto expect = [&](const Tensor& got, const Tensor& want, const std::string& what) {
          const double naive = largest_error(copy_as(want, got.dtype), want);
          EXPECT_LE(largest_error(got, want), 2 * c.roundings * naive + 1e-5 * max_abs(want))
              << c.name << " " << what << " " << name_of(dtype);
        };
        expect(gpu.output(), exact.y, "y");
        for (std::size_t i = 0; i < c.inputs.size(); ++i) {
          EXPECT_EQ(gpu.gradients[i].view().dtype,
                    c.inputs[i].gradient == Writes::accumulates ? DType::f32 : dtype);
          // Parameter gradients are f32, but of activations and their gradients in 16 bits.
          const Tensor got = gpu.gradients[i], want = exact.gradients[i];
          if (c.roundings == 1 || got.dtype == dtype) {
            expect(got, want, c.inputs[i].name);
            continue;
          }
          const double unit = dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
          EXPECT_LE(largest_error(got, want), 2 * c.roundings * unit * max_abs(want))
              << c.name << " " << c.inputs[i].name << " " << name_of(dtype);
        }
      }
}

TEST_F(GpuOperations, RepeatBitwise) {
  for (const OpCase& c : op_cases(OpSize::large)) {
    Execution first(c, DType::f32, 1, kGpu);
    run(first);
    for (int round = 0; round < 3; ++round) {
      Execution again(c, DType::f32, 1, kGpu);
      run(again);
      EXPECT_TRUE(same_bits(again.output(), first.output())) << c.name;
      for (std::size_t i = 0; i < c.inputs.size(); ++i)
        EXPECT_TRUE(same_bits(again.gradients[i], first.gradients[i]))
            << c.name << " " << c.inputs[i].name;
    }
  }
}

TEST_F(GpuOperations, DropoutDropsWhatTheCpuDrops) {
  ctx_.mode = Mode::train;
  ctx_.random = {5, 8, 3};
  Context cpu = ctx_;
  cpu.device = {};
  const Dropout dropout{0.3, 4, DropoutSite::attention};
  for (const std::int64_t columns : {135, 136})
    for (const DType dtype : {DType::f32, DType::f64}) {
      const OwnedTensor x = normal(dtype, {3, 5, columns}, 1), want(dtype, {3, 5, columns});
      const OwnedTensor in_place = copy_to(kGpu, x);
      dropout_apply(cpu, dropout, want, x);
      dropout_apply(ctx_, dropout, in_place, in_place);
      EXPECT_TRUE(same_bits(copy_to({}, in_place), want)) << columns;
    }
}

/// Elementwise operations on memory that starts off the 16 bytes of one access.
TEST_F(GpuOperations, UnalignedElements) {
  for (const std::int64_t offset : {0, 1, 2, 4}) {
    const OwnedTensor x = normal(DType::f32, {1003}, 1), want(DType::f32, {1003 - offset});
    const OwnedTensor there = copy_to(kGpu, x), y(DType::f32, {1003 - offset}, kGpu);
    gelu_forward({}, GeluForm::tanh, want, x.view().slice(0, offset, 1003 - offset));
    gelu_forward(ctx_, GeluForm::tanh, y, there.view().slice(0, offset, 1003 - offset));
    EXPECT_TRUE(close(copy_to({}, y), want, 1e-6)) << offset;
  }
}

/// Frequent tokens, rows that end within a stretch of the search, and a vocabulary so large that
/// several ids share a block.
TEST_F(GpuOperations, EmbeddingGradientsOfLongBatches) {
  for (const auto& [vocab, columns] : {std::pair<std::int64_t, std::int64_t>{300, 301}, {40007, 5}})
    for (const std::int64_t tokens : {1, 1023, 1024, 3000}) {
      OwnedTensor ids(DType::i32, {2, tokens});
      for (std::int64_t i = 0; i < 2 * tokens; ++i)
        ids.as<std::int32_t>()[i] =
            static_cast<std::int32_t>(i % 3 == 0 ? 7 : vocab - 1 - i * 11 % 290);
      const OwnedTensor dy = normal(DType::f64, {2, tokens, columns}, 1);
      const OwnedTensor want(DType::f64, {vocab, columns}), got(DType::f64, {vocab, columns}, kGpu);
      embedding_backward({}, want, {}, dy, ids, 1.5);
      embedding_backward(ctx_, got, {}, copy_to(kGpu, dy), copy_to(kGpu, ids), 1.5);
      EXPECT_TRUE(close(copy_to({}, got), want, 1e-13)) << vocab << " " << tokens;
    }
}

TEST_F(GpuOperations, TokensOutsideTheVocabularyAreNaNAndHarmNobody) {
  const OwnedTensor weight = normal(DType::f32, {5, 40}, 1);
  const OwnedTensor tokens = from_values(DType::i32, {1, 4}, {0, -1, 4, 5});
  const OwnedTensor y(DType::f32, {1, 4, 40}, kGpu), there = copy_to(kGpu, tokens);
  embedding_forward(ctx_, y, there, copy_to(kGpu, weight), {});
  const OwnedTensor host = copy_to({}, y);
  for (std::int64_t i = 0; i < 160; ++i) {
    const std::int64_t row = i / 40;
    const float value = host.as<float>()[i];
    if (row % 2 == 1)
      EXPECT_TRUE(std::isnan(value)) << i;
    else
      EXPECT_EQ(value, weight.as<float>()[(row == 0 ? 0 : 4 * 40) + i % 40]);
  }
  const GuardedTensor d_weight(DType::f32, {5, 40}, kGpu);
  fill_any(d_weight, 0);
  const OwnedTensor dy = from_values(DType::f32, {1, 4, 40}, std::vector<double>(160, 1));
  embedding_backward(ctx_, d_weight, {}, copy_to(kGpu, dy), there);
  EXPECT_TRUE(d_weight.intact());
  const OwnedTensor gradient = copy_to({}, d_weight);
  for (std::int64_t i = 0; i < 200; ++i)
    EXPECT_EQ(gradient.as<float>()[i], i / 40 == 0 || i / 40 == 4 ? 1.0f : 0.0f);
}

TEST_F(GpuOperations, RotaryPositionsOutsideTheTableAreNaN) {
  const RotaryTable table(DType::f32, 4, 3, 10000, kGpu);
  const OwnedTensor x = copy_to(kGpu, normal(DType::f32, {1, 3, 1, 4}, 1));
  const OwnedTensor positions = from_values(DType::i32, {3}, {2, 3, -1});
  rotary_forward(ctx_, x, x, table, copy_to(kGpu, positions));
  const OwnedTensor host = copy_to({}, x);
  for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(host.as<float>()[i]), i >= 4) << i;
}

TEST_F(GpuOperations, RotaryAddsAndWorksInsidePackedRows) {
  const std::int64_t tokens = 37, heads = 3, dim = 70, width = 3 * heads * dim;
  const auto rotated = [&](const Context& ctx) {
    const RotaryTable table(DType::f64, dim, tokens, 10000, ctx.device);
    const OwnedTensor packed = copy_to(ctx.device, normal(DType::f64, {2, tokens, width}, 1));
    OwnedTensor positions(DType::i32, {tokens});
    for (std::int64_t t = 0; t < tokens; ++t)
      positions.as<std::int32_t>()[t] = static_cast<std::int32_t>(tokens - 1 - t);
    const OwnedTensor map = copy_to(ctx.device, positions);
    Tensor view = packed.view().slice(2, heads * dim, heads * dim);
    view.shape = {2, tokens, heads, dim};
    view.stride = {tokens * width, width, dim, 1, 0};
    const OwnedTensor added(DType::f64, view.shape, ctx.device);
    fill_any(added, 1);
    rotary_backward(ctx, added, view, table, map, Accumulate::add);
    rotary_forward(ctx, view, view, table, map);
    std::vector<OwnedTensor> results;
    results.push_back(copy_to({}, packed));
    results.push_back(copy_to({}, added));
    return results;
  };
  const auto want = rotated({}), got = rotated(ctx_);
  for (int i : {0, 1}) EXPECT_TRUE(close(got[i], want[i], 1e-14)) << i;
}

TEST_F(GpuOperations, NormGradientsAreAddedAndMayOverwriteTheirInput) {
  const OwnedTensor x = normal(DType::f64, {50, 100}, 1), dy = normal(DType::f64, {50, 100}, 2);
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::l2}) {
    const auto gradients = [&](const Context& ctx) {
      const Device device = ctx.device;
      const OwnedTensor in = copy_to(device, x), d_out = copy_to(device, dy),
                        y(DType::f64, {50, 100}, device), mean(DType::f64, {50}, device),
                        rstd(DType::f64, {50}, device), added(DType::f64, {50, 100}, device);
      const NormStatistics saved{mean, rstd};
      norm_forward(ctx, kind, y, saved, in, {}, {}, 1e-5);
      fill_any(added, 3);
      norm_backward_input(ctx, kind, added, d_out, in, saved, {}, 1e-5, Accumulate::add);
      norm_backward_input(ctx, kind, d_out, d_out, in, saved, {}, 1e-5);
      std::vector<OwnedTensor> results;
      for (const OwnedTensor* t : {&y, &rstd, &added, &d_out}) results.push_back(copy_to({}, *t));
      return results;
    };
    const auto want = gradients({}), got = gradients(ctx_);
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(close(got[i], want[i], 1e-13)) << int(kind) << " " << i;
  }
}

TEST_F(GpuOperations, PaddingPositionsAgreeWithTheCpu) {
  for (const std::int64_t length : {1, 32, 75}) {
    OwnedTensor tokens(DType::i32, {9, length});
    for (std::int64_t i = 0; i < 9 * length; ++i) set(tokens, i, double(i * i % 7 % 3));
    const OwnedTensor want(DType::i32, {9, length});
    padding_positions({}, want, tokens, 1);
    const OwnedTensor got(DType::i32, {9, length}, kGpu);
    padding_positions(ctx_, got, to_device(std::move(tokens), kGpu), 1);
    EXPECT_TRUE(same_bits(copy_to({}, got), want)) << length;
  }
}

/// Linear as a layer: parameters on the GPU start as on the CPU.
TEST_F(GpuOperations, LayersTakeParametersOfTheirDevice) {
  const OwnedTensor x = normal(DType::f64, {9, 30}, 1), dy = normal(DType::f64, {9, 20}, 2);
  const auto gradients = [&](const Context& ctx) {
    ParameterList parameters(DType::f64, ctx.device);
    Linear linear(parameters, "a", 30, 20, Bias::yes, Init::normal(0.1));
    Embedding::Description description{11, 30, 9, Embedding::Positions::sinusoidal, {}};
    description.init = Init::normal(1);
    Embedding embedding(parameters, description);
    parameters.commit();
    parameters.initialise(3);
    const OwnedTensor tokens = copy_to(ctx.device, OwnedTensor(DType::i32, {1, 9})),
                      in = copy_to(ctx.device, x), y(DType::f64, {9, 20}, ctx.device),
                      embedded(DType::f64, {1, 9, 30}, ctx.device),
                      dx(DType::f64, {9, 30}, ctx.device);
    embedding.forward(ctx, embedded, tokens);
    linear.forward(ctx, y, in);
    linear.backward(ctx, dx, copy_to(ctx.device, dy), Accumulate::add);
    std::vector<OwnedTensor> results;
    for (const OwnedTensor* t : {&y, &dx, &embedded}) results.push_back(copy_to({}, *t));
    // One by one: a GPU's lie further apart.
    for (const Parameter& p : parameters.all()) results.push_back(copy_to({}, p.value));
    for (const Parameter& p : parameters.all()) results.push_back(copy_to({}, p.grad));
    parameters.zero_grad();
    EXPECT_EQ(max_abs(copy_to({}, parameters.grads().flat(DType::f64))), 0);
    return results;
  };
  const auto want = gradients({}), got = gradients(ctx_);
  for (std::size_t i : {3, 4, 5}) EXPECT_TRUE(same_bits(got[i], want[i])) << i;
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(close(got[i], want[i], 1e-13)) << i;
}

/// Loss and gradient of one call.
struct Loss {
  Loss(Context ctx, const Tensor& logits, const Tensor& targets)
      : value(DType::f64, {2}, ctx.device),
        row_loss(accumulation_dtype(logits.dtype), {targets.count()}, ctx.device),
        row_lse(accumulation_dtype(logits.dtype), {targets.count()}, ctx.device),
        in_place(copy_to(ctx.device, logits)) {
    const OwnedTensor there = copy_to(ctx.device, targets);
    cross_entropy_forward(ctx, value, row_loss, row_lse, in_place, there);
    cross_entropy_backward(ctx, in_place, in_place, there, value, row_lse, 1.5);
    EXPECT_TRUE(value.intact() && row_loss.intact() && row_lse.intact());
  }
  GuardedTensor value, row_loss, row_lse;
  OwnedTensor in_place;
};

TEST_F(GpuOperations, CrossEntropyAgreesWithTheCpu) {
  for (const auto& [rows, vocab] :
       {std::pair<std::int64_t, std::int64_t>{1, 3}, {7, 256}, {1500, 331}, {9, 5003}}) {
    OwnedTensor targets(DType::i32, {rows});
    for (std::int64_t r = 0; r < rows; ++r)
      targets.as<std::int32_t>()[r] = static_cast<std::int32_t>(r % 4 == 3 ? -100 : r * 7 % vocab);
    const OwnedTensor logits = normal(DType::f32, {rows, vocab}, 1, 3);
    const Loss want({}, copy_as(logits, DType::f64), targets);
    for (const DType dtype : {DType::f64, DType::f32}) {
      const double tolerance = dtype == DType::f64 ? 1e-13 : 2e-6;
      const OwnedTensor input = copy_as(logits, dtype);
      const Loss got(ctx_, input, targets), again(ctx_, input, targets);
      EXPECT_TRUE(close(copy_to({}, got.value), want.value, tolerance));
      EXPECT_TRUE(close(copy_to({}, got.row_loss), want.row_loss, tolerance));
      EXPECT_TRUE(close(copy_to({}, got.row_lse), want.row_lse, tolerance));
      EXPECT_TRUE(close(copy_to({}, got.in_place), want.in_place, 10 * tolerance));
      EXPECT_TRUE(same_bits(copy_to({}, got.value), copy_to({}, again.value)));
      EXPECT_TRUE(same_bits(copy_to({}, got.in_place), copy_to({}, again.in_place)));
    }
  }
}

/// Rows that lie further apart than they are long, and the gradient in the pass of the loss; sizes
/// for every kernel: a warp per row, shared memory, rows too long for it, rows off the 16 bytes.
TEST_F(GpuOperations, CrossEntropyInOnePass) {
  struct Size {
    std::int64_t rows, vocab, stride;
  };
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const Size s : {Size{70, 250, 256},
                         {70, 256, 256},
                         {33, 251, 251},
                         {5, 5001, 5056},
                         {4, 5001, 5001},
                         {3, 50257, 50304},
                         {2, 131071, 131072}}) {
      OwnedTensor targets(DType::i32, {s.rows});
      for (std::int64_t r = 0; r < s.rows; ++r)
        targets.as<std::int32_t>()[r] =
            static_cast<std::int32_t>(r % 4 == 3 ? -100 : r * 7919 % s.vocab);
      targets.as<std::int32_t>()[0] = static_cast<std::int32_t>(s.vocab - 1);
      const OwnedTensor logits = normal(dtype, {s.rows, s.stride}, 1, 3);
      const Tensor part = logits.view().slice(1, 0, s.vocab);
      const Loss want({}, copy_as(part, DType::f64), targets);
      const OwnedTensor there = copy_to(kGpu, logits), ids = copy_to(kGpu, targets),
                        loss(DType::f64, {2}, kGpu),
                        scale = copy_to(kGpu, from_values(DType::f32, {1}, {0.5}));
      const GuardedTensor row_loss(accumulation_dtype(dtype), {s.rows}, kGpu),
          row_lse(accumulation_dtype(dtype), {s.rows}, kGpu);
      const Tensor in_place = there.view().slice(1, 0, s.vocab);
      cross_entropy_forward(ctx_, loss, row_loss, row_lse, in_place, ids, {in_place, 3, scale});
      const double tolerance = dtype == DType::f64 ? 1e-13 : 4e-6;
      EXPECT_TRUE(close(copy_to({}, loss), want.value, tolerance)) << s.vocab;
      EXPECT_TRUE(close(copy_to({}, row_loss), want.row_loss, tolerance)) << s.vocab;
      EXPECT_TRUE(close(copy_to({}, row_lse), want.row_lse, tolerance)) << s.vocab;
      EXPECT_TRUE(row_loss.intact() && row_lse.intact());
      const OwnedTensor gradient = copy_to({}, there);
      const OwnedTensor got = copy_of(gradient.view().slice(1, 0, s.vocab));
      const double naive = largest_error(copy_as(want.in_place, dtype), want.in_place);
      EXPECT_LE(largest_error(got, want.in_place),
                2 * naive + 10 * tolerance * max_abs(want.in_place))
          << s.vocab << " " << name_of(dtype);
      EXPECT_EQ(max_abs(copy_of(gradient.view().slice(1, s.vocab, s.stride - s.vocab))), 0);
    }
}

/// Every number of packs that a lane may hold.
TEST_F(GpuOperations, NormsOfEveryLength) {
  for (const std::int64_t n : {8, 256, 264, 512, 520, 768, 776, 1024, 1032}) {
    const std::int64_t rows = n == 520 ? 2200 : 70;  // once several for each warp of backward
    const auto results = [&](const Context& ctx, DType dtype) {
      const DType wide = accumulation_dtype(dtype);
      const auto input = [&](DType to, const Shape& shape, std::uint32_t seed) {
        return copy_to(ctx.device, copy_as(normal(DType::bf16, shape, seed), to));
      };
      const OwnedTensor x = input(dtype, {rows, n}, 1), dy = input(dtype, {rows, n}, 2),
                        weight = input(wide, {n}, 3), bias = input(wide, {n}, 4),
                        y(dtype, {rows, n}, ctx.device), dx = input(dtype, {rows, n}, 5),
                        mean(wide, {rows}, ctx.device), rstd(wide, {rows}, ctx.device),
                        d_weight(wide, {n}, ctx.device), d_bias(wide, {n}, ctx.device);
      const NormStatistics saved{mean, rstd};
      norm_forward(ctx, NormKind::layernorm, y, saved, x, weight, bias, 1e-5);
      norm_backward(ctx, NormKind::layernorm, dx, d_weight, d_bias, dy, x, saved, weight, 1e-5,
                    Accumulate::add);
      std::vector<OwnedTensor> all;
      for (const OwnedTensor* t : {&y, &mean, &rstd, &dx, &d_weight, &d_bias})
        all.push_back(copy_to({}, *t));
      return all;
    };
    const auto exact = results({}, DType::f64);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto got = results(ctx_, dtype), again = results(ctx_, dtype);
      for (std::size_t i = 0; i < exact.size(); ++i) {
        const double naive = largest_error(copy_as(exact[i], got[i].view().dtype), exact[i]);
        EXPECT_LE(largest_error(got[i], exact[i]), 2 * naive + 1e-5 * max_abs(exact[i]))
            << n << " " << i << " " << name_of(dtype);
        EXPECT_TRUE(same_bits(got[i], again[i])) << n << " " << i;
      }
    }
  }
}

TEST_F(GpuOperations, CrossEntropyAtTheEdges) {
  const OwnedTensor logits =
      from_values(DType::f32, {2, 4}, {3e38, -3e38, 0, 0, -3e38, -3e38, -3e38, -3e38});
  const auto loss = [&](double first, double second) {
    const Loss result(ctx_, logits, from_values(DType::i32, {2}, {first, second}));
    EXPECT_TRUE(std::isfinite(max_abs(copy_to({}, result.in_place))));
    return copy_to({}, result.value);
  };
  EXPECT_NEAR(get(loss(0, 0), 0), std::log(4.0) / 2, 1e-6);
  EXPECT_EQ(get(loss(-1, -1), 0), 0);
  EXPECT_EQ(get(loss(-1, -1), 1), 0);
  EXPECT_TRUE(std::isnan(get(loss(0, 4), 0)));  // outside the vocabulary
  logits.as<float>()[5] = NAN;
  const Loss result(ctx_, logits, from_values(DType::i32, {2}, {0, 0}));
  EXPECT_TRUE(std::isnan(get(copy_to({}, result.value), 0)));
}

TEST_F(GpuOperations, RefusesTensorsOfTheHost) {
  const OwnedTensor host(DType::f32, {2, 3}), there(DType::f32, {2, 3}, kGpu);
  EXPECT_THROW(gelu_forward(ctx_, GeluForm::erf, there, host), std::logic_error);
  EXPECT_THROW(
      gemm(ctx_, OwnedTensor(DType::f32, {2, 2}, kGpu), there, Transpose::no, host, Transpose::yes),
      std::logic_error);
}

}  // namespace
}  // namespace quietformer
