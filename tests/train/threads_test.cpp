// Everything that runs on several threads or is shared by them, at sizes where ThreadSanitizer is
// bearable (preset tsan): attention, a training run with all its parts, and what callers may use
// from threads of their own. Results must be those of one thread.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include "core/hdf5.h"
#include "core/log.h"
#include "tests/attention/attention_case.h"
#include "tests/support/scratch.h"
#include "train/run.h"
#include "train/stop_signal.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using namespace test;

/// Runs `body` on `count` threads at once.
void on_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) threads.emplace_back(body, t);
  for (std::thread& thread : threads) thread.join();
}

CaseOptions attention_options(const std::string& implementation, Score score,
                              const std::string& normalizer) {
  CaseOptions options;
  options.implementation = implementation;
  options.score = score;
  options.normalizer = normalizer;
  options.parameters = {find_normalizer(normalizer).parameters[0].example};
  options.dtype = DType::f32;
  options.B = 2, options.H = 4, options.Hk = 2, options.D = 8, options.Dv = 8;
  options.L = options.S = 70;  // more than one tile
  options.causal = true;
  options.dropout = 0.1;
  options.alibi_rank = 1;
  options.bias = {1, 1, options.L, options.S};
  if (score == Score::piecewise) options.threshold = 20;
  return options;
}

void expect_attention_of_one_thread(const CaseOptions& options) {
  AttentionCase one(options), many(options);
  many.ctx.threads = 4;
  many.provide_workspace();
  one.forward(), one.backward();
  many.forward(), many.backward();
  const auto expected = one.results(), found = many.results();
  ASSERT_EQ(expected.size(), found.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(same_bits(found[i].second, expected[i].second)) << found[i].first;
}

TEST(Threads, AttentionOfEveryPair) {
  for (const AttentionImplementation* implementation : implementations())
    for (const Score score : {Score::dot, Score::cosine, Score::piecewise})
      for (const NormalizerInfo& normalizer : normalizers())
        expect_attention_of_one_thread(attention_options(std::string(implementation->name()), score,
                                                         std::string(normalizer.name)));
}

RunConfig tiny_run(int threads, const std::string& norm, const std::string& implementation) {
  RunConfig config;
  config.model.layers = 2, config.model.heads = 2, config.model.dim = 16;
  config.model.context = 32, config.model.norm = norm, config.model.dropout = 0.1;
  config.model.mlp = norm == "rmsnorm" ? "swiglu" : "gelu";
  config.model.position = norm == "rmsnorm" ? "rotary" : "learned";
  config.attention.implementation = implementation;
  config.attention.dropout = 0.1;
  config.data.split = {4000, 1000, 1000};
  config.optim.schedule.warmup = 1;
  config.train.device = "cpu";  // whose threads are tested
  config.train.batch = 4, config.train.accumulate = 2, config.train.steps = 3;
  config.train.eval_batches = 2, config.train.threads = threads;
  config.analysis.every = 1, config.analysis.per_head = true;
  return config;
}

struct Trained {
  std::vector<double> losses;
  std::vector<OwnedTensor> parameters;
};

Trained train(const RunConfig& config) {
  Trained result;
  Trainer trainer(config);
  ActivationStatistics statistics(config.analysis, config.model.heads);
  for (int step = 0; step < 3; ++step)
    result.losses.push_back(trainer.step(step == 1 ? &statistics : nullptr).loss);
  result.losses.push_back(trainer.evaluate(trainer.split().validation, 2, &statistics).loss);
  for (const Parameter& parameter : trainer.parameters().all())
    result.parameters.push_back(copy_of(parameter.value));
  return result;
}

TEST(Threads, TrainingStepsStatisticsAndEvaluation) {
  for (const char* norm : {"layernorm", "rmsnorm"})
    for (const char* implementation : {"reference", "flash"}) {
      const Trained one = train(tiny_run(1, norm, implementation));
      const Trained many = train(tiny_run(4, norm, implementation));
      EXPECT_EQ(one.losses, many.losses);
      for (std::size_t i = 0; i < one.parameters.size(); ++i)
        EXPECT_TRUE(same_bits(many.parameters[i], one.parameters[i])) << i;
    }
}

TEST(Threads, TwoTrainersShareThePool) {
  const Trained alone = train(tiny_run(2, "layernorm", "auto"));
  std::vector<Trained> together(2);
  on_threads(2, [&](int t) { together[std::size_t(t)] = train(tiny_run(2, "layernorm", "auto")); });
  for (const Trained& trained : together) EXPECT_EQ(trained.losses, alone.losses);
}

TEST(Threads, SourcesHdf5AndTheLogServeSeveralThreads) {
  SourceRequest request;
  request.path = "generator:wikipedia";
  request.generated_bytes = 10'000;
  const auto source = open_source(request);
  Hdf5Writer writer("shared");
  const OwnedTensor tensor = normal(DType::f32, {50}, 1);
  writer.tensor("/a", tensor);
  const Hdf5Image image = writer.finish();
  const Hdf5Reader reader("shared", image.view());
  std::atomic<int> lines{0};
  const ScopedLogSink sink([&](LogLevel, const std::string&) { ++lines; });
  std::vector<std::vector<std::int32_t>> ids(3, std::vector<std::int32_t>(5000));
  on_threads(3, [&](int t) {
    source->copy(100, 5000, ids[std::size_t(t)].data());
    EXPECT_TRUE(same_bits(reader.read("/a"), tensor));
    Hdf5Writer own("own");
    own.tensor("/b", tensor);
    EXPECT_FALSE(own.finish().view().empty());
    log_warning("from a thread");
  });
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_EQ(ids[0], ids[2]);
  EXPECT_EQ(lines, 3);
}

// The last test: the signal that asked for a stop is never forgotten.
TEST(Threads, ZzASignalStopsARun) {
  const ScratchFolder folder;
  RunConfig config = tiny_run(3, "layernorm", "auto");
  config.train.steps = 1'000'000;
  config.train.log_every = 1, config.train.eval_every = 0, config.train.checkpoint_every = 0;
  RunOptions options;
  options.directory = folder / "run";
  install_signal_handlers();
  std::thread killer([&] {
    const auto logs = [&] {
      std::error_code error;
      return std::filesystem::file_size(options.directory + "/log.jsonl", error) > 0 && !error;
    };
    for (int i = 0; i < 3000 && !logs(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ::kill(::getpid(), SIGTERM);
  });
  EXPECT_EQ(run_training(config, options), 128 + SIGTERM);
  killer.join();
}

}  // namespace
}  // namespace quietformer
