// A training step allocates nothing: malloc and its relatives are replaced by counting ones.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "tests/layers/model_support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QF_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define QF_SANITIZED 1
#endif
#endif

namespace {
std::atomic<long> allocations{0};
}

#if defined(__GLIBC__) && !defined(QF_SANITIZED)
#define QF_COUNTS_ALLOCATIONS 1
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

// operator new calls malloc.
void* malloc(std::size_t size) noexcept {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* old, std::size_t size) noexcept {
  ++allocations;
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  ++allocations;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) noexcept {
  ++allocations;
  *out = __libc_memalign(alignment, size);
  return *out != nullptr ? 0 : ENOMEM;
}
}
#endif

namespace quietformer {
namespace {

using test::TestGpt;

/// Reads a few values of what it is offered, as statistics do.
struct Watcher : ProbeSink {
  double sum = 0;
  void record(const Context&, std::string_view, const Tensor& value) override {
    sum += test::get(value, value.count() - 1);
  }
  bool wants(std::string_view) const override { return true; }
};

/// Large enough for tiles of several sizes and for several chunks; every temporary is used.
ModelConfig wide_model() {
  ModelConfig model;
  model.layers = 1, model.heads = 4, model.dim = 96, model.context = 150, model.vocab = 300;
  model.kv_heads = 2;
  model.dropout = 0.1;
  model.layer_scale = 0.5;
  model.qk_norm = "layernorm";
  model.position = "rotary";
  model.norm_structure = "hybrid";
  return model;
}

ModelConfig wide_encoder() {
  ModelConfig model = wide_model();
  model.type = "roberta", model.padding_token = 2, model.token_types = 2;
  model.qk_norm = "none", model.position = "learned";
  model.norm_structure = "post", model.deepnet = false;
  return model;
}

long allocations_of_a_step(const ModelConfig& model, const AttentionConfig& attention, DType dtype,
                           int threads) {
  TestGpt gpt(model, attention, dtype, {2, 150}, Purpose::training, threads);
  Watcher watcher;
  gpt.ctx.probes = &watcher;
  gpt.ctx.mode = Mode::train;
  const auto step = [&] {
    gpt.parameters.zero_grad();
    gpt.gpt.set_schedule_step(3);
    gpt.gpt.forward_loss(gpt.ctx, gpt.batch());
    gpt.gpt.backward(gpt.ctx);
  };
  step();  // the pool starts its threads at the first parallel section
  const long before = allocations;
  step();
  return allocations - before;
}

TEST(StepAllocations, TheCounterCounts) {
#ifndef QF_COUNTS_ALLOCATIONS
  GTEST_SKIP() << "malloc cannot be replaced here (a sanitizer owns it, or no glibc)";
#endif
  const long before = allocations;
  delete new volatile int(3);
  void* block = std::aligned_alloc(64, 128);
  EXPECT_GE(allocations - before, 2);
  std::free(block);
}

TEST(StepAllocations, ATrainingStepAllocatesNothing) {
#ifndef QF_COUNTS_ALLOCATIONS
  GTEST_SKIP() << "malloc cannot be replaced here (a sanitizer owns it, or no glibc)";
#endif
  for (const char* score : {"dot", "cosine", "piecewise"})
    for (const NormalizerInfo& normalizer : normalizers()) {
      AttentionConfig attention;
      attention.score = score;
      attention.normalizer = normalizer.name;
      attention.threshold = 40;
      attention.dropout = 0.1;
      attention.n = HeadParameterConfig::learned(1);
      attention.sigmoid_bias = HeadParameterConfig::learned(-4);
      for (const int threads : {1, 2})
        EXPECT_EQ(allocations_of_a_step(wide_model(), attention, DType::f32, threads), 0)
            << score << " " << normalizer.name << ", " << threads << " threads";
    }
  AttentionConfig scheduled;
  scheduled.n = HeadParameterConfig::scheduled(0, 1, 10);
  EXPECT_EQ(allocations_of_a_step(wide_model(), scheduled, DType::f64, 2), 0);
  EXPECT_EQ(allocations_of_a_step(wide_encoder(), test::both_ways(), DType::f32, 2), 0);
}

}  // namespace
}  // namespace quietformer
