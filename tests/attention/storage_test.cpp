// bf16 storage: what comes out is what f32 makes of the same numbers, rounded once.
#include <gtest/gtest.h>

#include "tests/attention/attention_case.h"

namespace quietformer::test {
namespace {

/// Options that reach every operand, stride and output.
std::vector<CaseOptions> storage_cases() {
  std::vector<CaseOptions> all;
  for (const Score score : {Score::dot, Score::cosine, Score::piecewise})
    for (const NormalizerInfo& normalizer : normalizers()) {
      CaseOptions o;
      o.score = score, o.normalizer = normalizer.name;
      for (const HeadParameterInfo& parameter : normalizer.parameters)
        o.parameters.push_back(parameter.example);
      o.H = 4, o.Hk = 2, o.L = 70, o.S = 83, o.D = 20, o.Dv = 24;
      o.threshold = score == Score::piecewise ? 9 : 0;
      o.causal = true, o.bias = {1, 4, 70, 83}, o.key_padding = true, o.dropout = 0.2;
      o.layout = Layout::rows_first;
      all.push_back(o);
      o.causal = false, o.bias = {}, o.key_padding = false, o.layout = Layout::heads_first;
      o.queries = {3, 0, 9}, o.keys = {5, 2, 9};
      all.push_back(o);
    }
  return all;
}

CaseOptions stored_as(DType dtype, CaseOptions options) {
  options.dtype = dtype;
  return options;
}

void copy_values(const Tensor& to, const Tensor& from) {
  if (to.shape.rank == 0) return;
  for (std::int64_t i = 0; i < to.count(); ++i) set(to, i, get(from, i));
}

void expect_rounded(const std::string& name, const Tensor& found, const Tensor& exact) {
  for (std::int64_t i = 0; i < exact.count(); ++i) {
    const double value = get(exact, i);
    const double rounded = bf16_to_float(float_to_bf16(float(value)));
    ASSERT_EQ(get(found, i), found.dtype == DType::bf16 ? rounded : value) << name << " " << i;
  }
}

TEST(Storage, Bfloat16IsTheFloatProblemRoundedOnce) {
  for (const CaseOptions& o : storage_cases()) {
    CaseOptions contiguous = stored_as(DType::f32, o);  // as the copies are
    contiguous.layout = Layout::heads_first;
    AttentionCase stored(stored_as(DType::bf16, o)), wide(contiguous);
    const auto operands = {&AttentionProblem::q,  &AttentionProblem::k,  &AttentionProblem::v,
                           &AttentionProblem::q2, &AttentionProblem::k2, &AttentionProblem::do_};
    for (const auto member : operands) copy_values(wide.problem.*member, stored.problem.*member);
    stored.forward(), wide.forward();
    expect_rounded("o", stored.problem.o, wide.problem.o);
    copy_values(wide.problem.o, stored.problem.o);  // backward reads the stored output
    stored.backward(), wide.backward();
    const auto found = stored.results(), exact = wide.results();
    ASSERT_EQ(found.size(), exact.size());
    for (std::size_t i = 0; i < found.size(); ++i)
      expect_rounded(found[i].first, found[i].second, exact[i].second);
    EXPECT_TRUE(stored.guards_intact());
  }
}

TEST(Storage, Bfloat16IsBitwiseTheSameOnAnyNumberOfThreads) {
  CaseOptions o = stored_as(DType::bf16, storage_cases()[0]);
  AttentionCase one(o), many(o);
  many.ctx.threads = 3;
  many.provide_workspace();
  one.forward(), one.backward(), many.forward(), many.backward();
  const auto a = one.results(), b = many.results();
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::int64_t e = 0; e < a[i].second.count(); ++e)
      ASSERT_EQ(get(a[i].second, e), get(b[i].second, e)) << a[i].first;
}

TEST(Storage, TypesThatDoNotGoTogetherAreRefused) {
  AttentionCase c(stored_as(DType::bf16, storage_cases()[0]));
  const auto message = [&](Tensor AttentionProblem::*member, DType dtype) {
    AttentionProblem p = c.problem;
    (p.*member).dtype = dtype;
    try {
      check(p);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(&AttentionProblem::k, DType::f32), "attention k: type f32, expected bf16");
  EXPECT_EQ(message(&AttentionProblem::bias, DType::bf16),
            "attention bias: type bf16, expected f32");
  EXPECT_EQ(message(&AttentionProblem::lse, DType::bf16), "attention lse: type bf16, expected f32");
  EXPECT_EQ(message(&AttentionProblem::q, DType::f16),
            "attention q: type f16, expected f32, f64 or bf16 (f16 on a GPU)");
}

}  // namespace
}  // namespace quietformer::test
