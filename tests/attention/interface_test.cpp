// The interface around the mathematics: registry, ranks, dropout dump, memory.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "attention/cuda/reference.h"
#include "tests/attention/attention_case.h"
#include "tests/attention/naive.h"

// Counts allocations of the whole program. Sanitizers replace malloc themselves.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define QF_COUNTS_ALLOCATIONS
static std::atomic<long> allocations{0};
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  ++allocations;
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? 12 : 0;
}
}
#endif

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::get;

TEST(Registry, ScoresAndNormalizersAreFoundByName) {
  for (const NormalizerInfo& info : normalizers()) EXPECT_EQ(&find_normalizer(info.name), &info);
  for (const Score score : {Score::dot, Score::cosine, Score::piecewise})
    EXPECT_EQ(find_score(name_of(score)), score);
  EXPECT_DOUBLE_EQ(default_scale(Score::dot, 64), 0.125);
  EXPECT_DOUBLE_EQ(default_scale(Score::piecewise, 16), 0.25);
  EXPECT_DOUBLE_EQ(default_scale(Score::cosine, 64), 10);
}

TEST(Registry, AutoChoosesWhatCanRun) {
  AttentionCase c(CaseOptions{});
  EXPECT_EQ(choose("auto", c.problem).why_not(c.problem, Direction::backward), std::nullopt);
  c.problem.weights = Tensor();
  for (const AttentionImplementation* implementation : implementations())
    EXPECT_EQ(&choose(implementation->name(), c.problem), implementation);
  c.problem.weights = c.make(DType::f64, {2, 2, 4, 5});
  EXPECT_EQ(choose("auto", c.problem).name(), "reference");
  EXPECT_THROW(choose("flash", c.problem), InputError);
  c.problem.weights = Tensor();
  EXPECT_EQ(choose("auto", c.problem, Direction::forward).name(), "flash");
}

TEST(Registry, TheDeviceOfQueriesDecidesWhichImplementationRuns) {
  AttentionCase c(CaseOptions{});
  const AttentionImplementation& reference = choose("reference", c.problem);
  EXPECT_EQ(cuda::reference_implementation().name(), "reference");
  c.problem.q.device.type = DeviceType::cuda;
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    const auto reason = cuda::reference_implementation().why_not(c.problem, direction);
    EXPECT_EQ(reference.why_not(c.problem, direction), reason);
    if (reason)
      EXPECT_THROW(choose("reference", c.problem), InputError);
    else
      EXPECT_EQ(&choose("reference", c.problem), &reference);
  }
}

TEST(Workspace, NeedsShapesOnly) {
  CaseOptions o;
  o.score = Score::cosine, o.bias = {1, 2, 4, 5}, o.dropout = 0.1;
  o.queries = {2, 2}, o.keys = {3, 2};
  AttentionCase c(o);
  const std::int64_t bytes = workspace_bytes(c.implementation(), c.ctx, c.problem);
  AttentionProblem shapes = c.problem;
  for (Tensor* t : {&shapes.q, &shapes.k, &shapes.v, &shapes.o, &shapes.bias, &shapes.dbias,
                    &shapes.cu_seqlens_q, &shapes.cu_seqlens_k})
    t->data = nullptr;
  EXPECT_EQ(workspace_bytes(c.implementation(), c.ctx, shapes), bytes);
}

// 2-D is one head, 3-D merged batch and heads, 4-D with 3-D keys one shared key head.
TEST(Ranks, LowerRanksAreTheSameProblem) {
  struct Form {
    std::int64_t B, H, Hk;
    Shape q, k;
  };
  const std::int64_t L = 4, S = 5, D = 4;
  for (const Form& form :
       {Form{1, 1, 1, {L, D}, {S, D}}, Form{3, 1, 1, {3, L, D}, {3, S, D}},
        Form{2, 3, 1, {2, 3, L, D}, {2, S, D}}, Form{2, 2, 2, {2, 2, L, D}, {2, 2, S, D}}}) {
    CaseOptions o;
    o.B = form.B, o.H = form.H, o.Hk = form.Hk, o.L = L, o.S = S, o.D = o.Dv = D;
    AttentionCase full(o), lower(o);
    AttentionProblem& p = lower.problem;
    const auto q = [&](const Tensor& t) { return t.reshape(form.q); };
    const auto k = [&](const Tensor& t) { return t.reshape(form.k); };
    AttentionViews views;
    views.q = q(p.q), views.o = q(p.o), views.do_ = q(p.do_), views.dq = q(p.dq);
    views.k = k(p.k), views.v = k(p.v), views.dk = k(p.dk), views.dv = k(p.dv);
    set_inputs(p, views);
    full.forward(), full.backward(), lower.forward(), lower.backward();
    for (const auto& member : {&AttentionProblem::o, &AttentionProblem::dq, &AttentionProblem::dk,
                               &AttentionProblem::dv})
      EXPECT_TRUE(test::same_bits(p.*member, full.problem.*member));
  }
}

TEST(Dropout, DumpedMaskIsTheOneThatIsUsed) {
  CaseOptions o;
  o.dropout = 0.4, o.L = 9, o.S = 13, o.Hk = 1, o.D = 16;
  AttentionCase c(o);
  const AttentionProblem& p = c.problem;
  const OwnedTensor mask(DType::u8, {o.B, o.H, o.L, o.S});
  dump_dropout_mask(p.dropout, mask);
  c.forward();
  o.implementation = "reference";
  AttentionCase exporting(o);
  exporting.forward();
  // o from the exported weights (before dropout) and the dumped decisions.
  std::int64_t kept = 0;
  for (std::int64_t row = 0; row < o.B * o.H * o.L; ++row) {
    const std::int64_t b = row / (o.H * o.L);
    for (std::int64_t d = 0; d < o.Dv; ++d) {
      double sum = 0;
      for (std::int64_t j = 0; j < o.S; ++j)
        sum += get(exporting.problem.weights, row * o.S + j) * get(mask, row * o.S + j) / 0.6 *
               get(p.v, (b * o.S + j) * o.Dv + d);
      EXPECT_NEAR(get(p.o, row * o.Dv + d), sum, 1e-14);
    }
    for (std::int64_t j = 0; j < o.S; ++j) kept += get(mask, row * o.S + j) != 0;
  }
  EXPECT_NEAR(double(kept) / double(mask.view().count()), 0.6, 0.08);
  EXPECT_THROW(dump_dropout_mask(p.dropout, p.o), InputError);
}

TEST(Dropout, RateIsExact) {
  const AttentionDropout dropout{0.3, stream_key(9, RandomPurpose::attention_dropout, 0, 0), 0};
  const OwnedTensor mask(DType::u8, {4, 4, 100, 101});
  dump_dropout_mask(dropout, mask);
  double kept = 0;
  for (std::int64_t i = 0; i < mask.view().count(); ++i) kept += get(mask, i);
  EXPECT_NEAR(1 - kept / double(mask.view().count()), 0.3, 0.003);
}

#ifdef QF_COUNTS_ALLOCATIONS
TEST(Memory, ForwardAndBackwardAllocateNothing) {
  for (const Score score : {Score::dot, Score::cosine, Score::piecewise})
    for (const NormalizerInfo& info : normalizers()) {
      CaseOptions o;
      o.score = score, o.normalizer = info.name, o.dtype = DType::f32;
      o.B = 1, o.L = 300, o.S = 310, o.D = o.Dv = 64, o.dropout = 0.1;
      o.bias = {1, 2, 300, 310}, o.causal = true, o.key_padding = true;
      AttentionCase c(o);
      const AttentionImplementation& implementation = c.implementation();
      const long before = allocations;
      implementation.forward(c.ctx, c.problem);
      implementation.backward(c.ctx, c.problem);
      EXPECT_EQ(allocations - before, 0) << name_of(score) << " " << info.name;
    }
}
#endif

// Pitfall: 32-bit offsets. Two heads whose rows lie more than 2^31 elements apart.
TEST(Memory, StridesBeyondThirtyTwoBits) {
  const std::int64_t apart = (std::int64_t{1} << 31) + 1024;
  const std::size_t bytes = std::size_t(apart + 1024) * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "no address space for " << bytes << " bytes";
  CaseOptions o;
  o.B = 1, o.dtype = DType::f32;
  AttentionCase plain(o), far(o);
  Tensor wide(memory, DType::f32, far.problem.k.shape);
  wide.stride[1] = apart;
  for (std::int64_t i = 0; i < wide.count(); ++i) test::set(wide, i, get(far.problem.k, i));
  far.problem.k = wide;
  plain.forward(), plain.backward(), far.forward(), far.backward();
  EXPECT_TRUE(test::same_bits(far.problem.o, plain.problem.o));
  EXPECT_TRUE(test::same_bits(far.problem.dq, plain.problem.dq));
  munmap(memory, bytes);
}

}  // namespace
}  // namespace quietformer
