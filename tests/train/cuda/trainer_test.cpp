// Training on a GPU: against PyTorch's trace and the CPU, bitwise repeats and resumes, checkpoints
// that change devices, and what goes wrong. Skips with the reason where there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>

#include "analysis/final_statistics.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "tests/train/trace.h"
#include "train/checkpoint.h"
#include "train/load_model.h"
#include "train/run.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

class GpuTrainer : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

RunConfig small_run(const std::string& device, const std::string& dtype) {
  RunConfig config;
  config.model.layers = 2, config.model.heads = 2, config.model.dim = 64;
  config.model.context = 64;
  config.data.split = {100000, 4000, 4000};
  config.optim.schedule.warmup = 5;
  config.optim.lr = 3e-3;
  config.train.device = device, config.train.dtype = dtype;
  config.train.deterministic = true;
  config.train.batch = 8, config.train.accumulate = 2, config.train.steps = 100;
  config.analysis.every = 10;
  return config;
}

/// Masked bytes; evaluation has padding.
RunConfig encoder_run(const std::string& device, const std::string& dtype) {
  RunConfig config = small_run(device, dtype);
  config.model.type = "roberta", config.model.vocab = 258, config.model.padding_token = 257;
  config.model.token_types = 1, config.model.mlp = "gelu_erf";
  config.model.norm_structure = "post", config.model.deepnet = false;
  config.attention.causal = false;
  return config;
}

std::vector<double> train(Trainer& trainer, std::int64_t steps) {
  std::vector<double> losses;
  for (std::int64_t i = 0; i < steps; ++i) losses.push_back(trainer.step(nullptr).loss);
  return losses;
}

std::vector<OwnedTensor> masters(const Trainer& trainer) {
  std::vector<OwnedTensor> copies;
  for (const Parameter& p : trainer.parameters().all()) copies.push_back(copy_to({}, p.master));
  return copies;
}

void expect_same(const Trainer& a, const Trainer& b) {
  const auto x = masters(a), y = masters(b);
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_TRUE(same_bits(x[i], y[i])) << a.parameters().all()[i].name;
}

void expect_same(const ActivationStatistics& got, const ActivationStatistics& want) {
  ASSERT_EQ(got.latest().size(), want.latest().size());
  for (std::size_t i = 0; i < want.latest().size(); ++i) {
    const SiteStatistics &g = got.latest()[i], &w = want.latest()[i];
    EXPECT_GT(w.all.samples, 0);
    EXPECT_EQ(0, std::memcmp(&g.all, &w.all, sizeof(SampleSums))) << w.site;
    EXPECT_EQ(g.has_reference, w.has_reference) << w.site;
  }
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const RunError& error) {
    return error.what();
  }
  return "no RunError";
}

TEST_F(GpuTrainer, TraceMatchesPyTorchInSinglePrecision) {
  run_trace<float>(kGpu);
}

TEST_F(GpuTrainer, TraceMatchesPyTorchInDoublePrecision) {
  run_trace<double>(kGpu);
}

void expect_same_as_cpu(const RunConfig& gpu_config, const RunConfig& cpu_config) {
  Trainer gpu(gpu_config), cpu(cpu_config);
  const AnalysisConfig analysis = cpu.config().analysis;
  ActivationStatistics there(analysis, 2), here(analysis, 2);
  for (int step = 0; step < 12; ++step) {
    const bool analyse = step % 4 == 3;
    if (analyse) there.begin_step(), here.begin_step();
    const StepReport g = gpu.step(analyse ? &there : nullptr);
    const StepReport c = cpu.step(analyse ? &here : nullptr);
    EXPECT_NEAR(g.loss, c.loss, 1e-9 * c.loss) << step;
    EXPECT_NEAR(g.grad_norm, c.grad_norm, 1e-8 * c.grad_norm) << step;
    if (!analyse) continue;
    there.end_step(), here.end_step();
    ASSERT_EQ(there.latest().size(), here.latest().size());
    for (std::size_t i = 0; i < here.latest().size(); ++i) {
      const SiteStatistics &g_site = there.latest()[i], &c_site = here.latest()[i];
      EXPECT_EQ(g_site.site, c_site.site);
      EXPECT_EQ(g_site.all.samples, c_site.all.samples);
      EXPECT_NEAR(g_site.all.pooled.max_abs, c_site.all.pooled.max_abs,
                  1e-6 * c_site.all.pooled.max_abs)
          << c_site.site;
    }
  }
  const Evaluation g = gpu.evaluate(gpu.split().validation, 0);
  const Evaluation c = cpu.evaluate(cpu.split().validation, 0);
  EXPECT_EQ(g.targets, c.targets);
  EXPECT_NEAR(g.loss, c.loss, 1e-8 * c.loss);
}

TEST_F(GpuTrainer, AgreesWithTheCpuInDoublePrecision) {
  const auto run = [](const char* device) {
    RunConfig config = small_run(device, "fp64");
    config.model.dropout = config.attention.dropout = 0.1;
    return config;
  };
  expect_same_as_cpu(run("cuda"), run("cpu"));
}

TEST_F(GpuTrainer, EncodersAgreeWithTheCpuAndRepeatBitwise) {
  expect_same_as_cpu(encoder_run("cuda", "fp64"), encoder_run("cpu", "fp64"));
  Trainer whole(encoder_run("cuda", "bf16")), again(encoder_run("cuda", "bf16"));
  const std::vector<double> losses = train(whole, 20);
  EXPECT_EQ(train(again, 20), losses);
  EXPECT_LT(losses.back(), 0.8 * losses.front());
  expect_same(again, whole);
  EXPECT_EQ(whole.evaluate(whole.split().test, 0).loss, again.evaluate(again.split().test, 0).loss);
}

// The stated noise: loss curves of 100 steps from the same start, on the same batches.
TEST_F(GpuTrainer, LossCurvesOf16BitsFollowTheCpu) {
  Trainer cpu(small_run("cpu", "fp32"));
  const std::vector<double> want = train(cpu, 100);
  for (const char* dtype : {"fp32", "bf16", "fp16"}) {
    Trainer gpu(small_run("cuda", dtype));
    const std::vector<double> got = train(gpu, 100);
    double mean = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], 0.03 * want[i]) << dtype << " step " << i;
      mean += (got[i] - want[i]) / double(want.size());
    }
    EXPECT_LT(std::abs(mean), 0.005 * want.back()) << dtype;
    EXPECT_LT(got.back(), 0.7 * got.front()) << dtype;
  }
}

TEST_F(GpuTrainer, RepeatsAndResumesBitwise) {
  const ScratchFolder folder;
  for (const char* dtype : {"fp32", "bf16", "fp16"}) {
    Trainer whole(small_run("cuda", dtype)), again(small_run("cuda", dtype));
    const std::vector<double> losses = train(whole, 20);
    EXPECT_EQ(train(again, 20), losses) << dtype;
    expect_same(again, whole);

    Trainer first(small_run("cuda", dtype)), second(small_run("cuda", dtype));
    train(first, 7);
    const std::string path = folder / "at7.h5";
    write_checkpoint(path, first.snapshot());
    second.restore(CheckpointReader(path));
    second.evaluate(second.split().validation, 2);  // does not disturb
    const std::vector<double> rest = train(second, 13);
    EXPECT_EQ(rest, std::vector<double>(losses.begin() + 7, losses.end())) << dtype;
    expect_same(second, whole);
  }
}

/// Runs where everything changes that a step reads of the host: learning rate, n, dropout, the
/// batch, the loss scale.
std::vector<RunConfig> changing_runs() {
  std::vector<RunConfig> runs;
  for (const char* dtype : {"fp64", "fp32", "bf16", "fp16"}) {
    RunConfig config = small_run("cuda", dtype);
    config.train.steps = 14;
    runs.push_back(config);
    config.model.dropout = 0.1, config.attention.dropout = 0.2;
    config.attention.n = HeadParameterConfig::scheduled(0, 2, 8);
    config.attention.gate = "head";
    config.train.accumulate = 3;
    runs.push_back(config);
  }
  RunConfig encoder = encoder_run("cuda", "bf16");
  encoder.train.steps = 14, encoder.model.dropout = 0.1;
  runs.push_back(encoder);
  return runs;
}

TEST_F(GpuTrainer, RecordedStepsHaveTheSameBits) {
  const ScratchFolder folder;
  const std::string path = folder / "at9.h5";
  for (const RunConfig& config : changing_runs()) {
    SCOPED_TRACE(config.model.type + " " + config.train.dtype +
                 (config.model.dropout > 0 ? ", dropout" : ""));
    Trainer plain(config, Recording::no), recorded(config);
    std::optional<ActivationStatistics> seen, seen_recorded;
    std::vector<StepReport> want;
    for (int step = 0; step < 14; ++step) {
      if (step == 0 || step == 9)  // what was recorded for other objects is of no use
        seen.emplace(config.analysis, 2), seen_recorded.emplace(config.analysis, 2);
      const bool analyse = step != 1 && step != 5;
      if (analyse) seen->begin_step(), seen_recorded->begin_step();
      want.push_back(plain.step(analyse ? &*seen : nullptr));
      const StepReport got = recorded.step(analyse ? &*seen_recorded : nullptr);
      EXPECT_EQ(got.loss, want.back().loss) << step;
      EXPECT_EQ(got.grad_norm, want.back().grad_norm) << step;
      if (analyse) {
        seen->end_step(), seen_recorded->end_step();
        expect_same(*seen_recorded, *seen);
      }
      if (step == 7) {
        EXPECT_EQ(recorded.evaluate(recorded.split().test, 2).loss,
                  plain.evaluate(plain.split().test, 2).loss);
      }
      if (step == 8) write_checkpoint(path, recorded.snapshot());
    }
    expect_same(recorded, plain);
    Trainer resumed(config);
    resumed.restore(CheckpointReader(path));
    for (std::size_t step = 9; step < want.size(); ++step)
      EXPECT_EQ(resumed.step(nullptr).loss, want[step].loss) << step;
    expect_same(resumed, plain);
  }
}

TEST_F(GpuTrainer, ReportsAreAskedForAndChangeNothing) {
  Trainer all(small_run("cuda", "fp32")), some(small_run("cuda", "fp32"));
  train(all, 6);
  for (int step = 0; step < 6; ++step) {
    const StepReport report = some.step(nullptr, step == 5 ? Report::yes : Report::no);
    EXPECT_EQ(report.step, step + 1);
  }
  expect_same(some, all);
}

TEST_F(GpuTrainer, FinalStatisticsAgreeWithTheCpuAndDisturbNoStep) {
  for (const auto& make : {small_run, encoder_run}) {
    Trainer cpu(make("cpu", "fp32")), gpu(make("cuda", "fp32")), other(make("cuda", "fp32"));
    FinalStatistics on_cpu(cpu.config().analysis), on_gpu(gpu.config().analysis);
    train(gpu, 3), train(other, 3);
    cpu.observe(cpu.split().test, 3, on_cpu);
    gpu.observe(gpu.split().test, 3, on_gpu);
    EXPECT_EQ(on_gpu.results().sequences, 3);
    train(gpu, 2), train(other, 2);
    expect_same(gpu, other);

    // The same weights.
    Trainer start(make("cuda", "fp32"));
    FinalStatistics at_start(start.config().analysis);
    start.observe(start.split().test, 3, at_start);
    const FinalResults g = at_start.results(), w = on_cpu.results();
    ASSERT_EQ(g.sites.size(), 9u);
    ASSERT_EQ(g.attention.size(), 2u);
    for (std::size_t i = 0; i < g.sites.size(); ++i) {
      for (std::size_t t = 0; t < 64; ++t)
        EXPECT_NEAR(g.sites[i].norm_by_token[t], w.sites[i].norm_by_token[t], 1e-4);
      for (std::size_t c = 0; c < 64; ++c)
        EXPECT_NEAR(g.sites[i].norm_by_channel[c], w.sites[i].norm_by_channel[c], 1e-4);
    }
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t h = 0; h < 2; ++h) {
        EXPECT_NEAR(g.attention[i].entropy[h], w.attention[i].entropy[h], 1e-4);
        EXPECT_NEAR(g.attention[i].sink_mass[h], w.attention[i].sink_mass[h], 1e-5);
      }
  }
}

TEST_F(GpuTrainer, CheckpointsMoveBetweenDevicesAndTypes) {
  const ScratchFolder folder;
  std::string path = folder / "start.h5";
  Trainer start(small_run("cpu", "fp32"));
  const double loss = train(start, 20).back();
  write_checkpoint(path, start.snapshot());
  const std::pair<const char*, const char*> stations[] = {
      {"cuda", "bf16"}, {"cpu", "fp32"}, {"cuda", "fp32"}, {"cuda", "fp16"}, {"cpu", "fp32"}};
  for (const auto& [device, dtype] : stations) {
    Trainer trainer(small_run(device, dtype));
    const CheckpointReader checkpoint(path);
    trainer.restore(checkpoint);
    for (const Parameter& p : trainer.parameters().all()) {
      const OwnedTensor stored(DType::f32, p.master.get().shape);
      checkpoint.read("parameters/" + p.name, stored);
      EXPECT_TRUE(same_bits(copy_to({}, p.master), stored)) << p.name;
    }
    for (const double next : train(trainer, 3)) EXPECT_NEAR(next, loss, 0.25 * loss) << dtype;
    path = folder / (std::string(device) + dtype + std::to_string(trainer.completed_steps()));
    write_checkpoint(path, trainer.snapshot());
  }
  EXPECT_EQ(CheckpointReader(path).integer("step"), 35);
}

TEST_F(GpuTrainer, RunsMoveFromTheCpuToTheGpuAndBack) {
  const ScratchFolder folder;
  RunOptions options;
  options.directory = folder / "run";
  options.resume = Resume::yes;
  std::int64_t steps = 10;
  // A run's length is part of its config, so an interrupted run stands in: results.json is removed.
  RunConfig config = small_run("cpu", "auto");
  config.train.steps = steps, config.train.checkpoint_every = 4, config.train.eval_every = 5;
  for (const char* device : {"cpu", "cuda", "auto", "cpu"}) {
    config.train.device = device;
    EXPECT_EQ(run_training(config, options), 0);
    EXPECT_TRUE(std::filesystem::remove(options.directory + "/results.json"));
    EXPECT_TRUE(std::filesystem::remove(options.directory + "/checkpoints/step_00000010.h5"));
  }
}

/// As PyTorch users find the type in a model's files: it is the checkpoint's, not the machine's.
TEST_F(GpuTrainer, ACheckpointSaysWhatAutoCameTo) {
  const ScratchFolder folder;
  for (const auto& [device, dtype] : {std::pair{"cpu", DType::f32}, {"cuda", DType::bf16}}) {
    const std::string path = folder / (std::string(device) + ".h5");
    Trainer trainer(small_run(device, "auto"));
    write_checkpoint(path, trainer.snapshot());
    EXPECT_EQ(load_model(path, "auto").placement.dtype, dtype);
    EXPECT_EQ(load_model(path, "cuda").placement.dtype, dtype);
    EXPECT_EQ(load_model(path, "cpu").placement.dtype, DType::f32);
  }
}

TEST_F(GpuTrainer, DivergenceLeavesTheParameters) {
  for (const char* dtype : {"fp32", "bf16"}) {
    RunConfig config = small_run("cuda", dtype);
    config.optim.lr = 1e30, config.optim.schedule.warmup = 1;
    Trainer reported(config);
    std::vector<OwnedTensor> before;
    int bad = 0;
    const std::string error = error_of([&] {
      for (; bad < 20; ++bad) {
        before = masters(reported);
        reported.step(nullptr);
      }
    });
    const std::string expected = "step " + std::to_string(bad + 1) + ": diverged: ";
    EXPECT_TRUE(error.starts_with(expected)) << error;
    // Steps that nobody looks at stop there too.
    Trainer silent(config);
    for (int step = 0; step < bad + 4; ++step) silent.step(nullptr, Report::no);
    const std::string late = error_of([&] { silent.step(nullptr); });
    EXPECT_TRUE(late.starts_with(expected)) << late << ", expected " << expected;
    EXPECT_TRUE(error_of([&] { silent.snapshot(); }).starts_with(expected));
    for (const Trainer* trainer : {&reported, &silent}) {
      const auto after = masters(*trainer);
      for (std::size_t i = 0; i < after.size(); ++i)
        EXPECT_TRUE(same_bits(after[i], before[i])) << dtype;
    }
  }
}

// A scale far too high is halved until gradients are finite, and training goes on from there.
TEST_F(GpuTrainer, LossScalingSurvivesOverflowAndCheckpoints) {
  const ScratchFolder folder;
  Trainer trainer(small_run("cuda", "fp16"));
  Checkpoint checkpoint = trainer.snapshot();
  EXPECT_EQ(checkpoint.numbers.at("loss_scale"), 65536);
  checkpoint.numbers["loss_scale"] = 0x1p60;
  write_checkpoint(folder / "high.h5", checkpoint);
  trainer.restore(CheckpointReader(folder / "high.h5"));
  const std::vector<OwnedTensor> before = masters(trainer);
  const StepReport overflowed = trainer.step(nullptr);
  EXPECT_FALSE(std::isfinite(overflowed.grad_norm));
  EXPECT_EQ(overflowed.loss_scale, 0x1p59);
  EXPECT_EQ(overflowed.skipped, 1);
  const auto after = masters(trainer);
  for (std::size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(same_bits(after[i], before[i]));
  StepReport report;
  for (int step = 0; step < 59; ++step) report = trainer.step(nullptr);
  EXPECT_EQ(report.loss_scale, trainer.snapshot().numbers.at("loss_scale"));
  EXPECT_TRUE(std::isfinite(report.grad_norm));
  const Checkpoint later = trainer.snapshot();
  EXPECT_LT(later.numbers.at("loss_scale"), 0x1p40);
  EXPECT_GT(later.numbers.at("skipped_steps"), 10);
  EXPECT_EQ(later.numbers.at("loss_scale"),
            std::ldexp(1, 60 - int(later.numbers.at("skipped_steps"))));
}

TEST_F(GpuTrainer, TooLittleMemoryNamesArenaAndBytes) {
  RunConfig config = small_run("cuda", "fp32");
  config.train.batch = 1 << 22;
  const std::string error = error_of([&] { Trainer trainer(config); });
  EXPECT_TRUE(error.starts_with("activations: allocating ")) << error;
  EXPECT_NE(error.find("bytes on cuda:0: out of memory"), std::string::npos) << error;
  Trainer trainer(small_run("cuda", "fp32"));  // the device is as good as before
  EXPECT_TRUE(std::isfinite(trainer.step(nullptr).loss));
}

TEST_F(GpuTrainer, GpusThatAreNotThereAreOneLine) {
  const std::string error = error_of([] { Trainer trainer(small_run("cuda:99", "fp32")); });
  EXPECT_TRUE(error.starts_with("train.device: 'cuda:99': found ")) << error;
}

}  // namespace
}  // namespace quietformer
