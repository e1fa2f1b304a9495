#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "attention/attention.h"
#include "core/buffer.h"
#include "core/check.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "train/commands/command.h"
#include "train/run_config.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

struct AttentionArguments {
  std::vector<std::int64_t> lengths{512, 1024, 2048, 4096};
  std::string score = "dot", normalizer = "softmax_n", implementation = "auto", dtype = "fp32";
  std::int64_t batch = 1, heads = 8, kv_heads = 0, head_dim = 64;
  bool full = false;
  int threads = 0, repeats = 7;
  std::vector<double> parameters;
};

/// Median wall time of `repeats` calls after two to warm up, in ms.
template <class F>
double median_ms(int repeats, F&& f) {
  std::vector<double> times;
  for (int r = 0; r < repeats + 2; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(times.begin() + 2, times.end());
  return times[2 + static_cast<std::size_t>(repeats) / 2];
}

// Deterministic, roughly normal numbers: the sum of four uniforms, scaled to variance 1.
OwnedTensor random_tensor(DType dtype, const Shape& shape, std::uint32_t stream) {
  OwnedTensor tensor(dtype, shape);
  const RandomKey key = stream_key(1, RandomPurpose::initialisation, stream, 0);
  dispatch_floating(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < shape.count(); ++i) {
      const Philox4 bits = philox(key, std::uint32_t(i), std::uint32_t(i >> 32), 0, 0);
      float sum = -2;
      for (const std::uint32_t word : bits.word) sum += uniform24(word);
      tensor.as<T>()[i] = T(sum * 1.7320508f);
    }
  });
  return tensor;
}

void positive(std::string_view option, std::int64_t value) {
  if (value < 1) throw InputError(fmt::format("{}: found {}, expected 1 or more", option, value));
}

/// The most memory this process ever held.
double peak_resident_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / 1024;
}

Json bench_attention(const AttentionArguments& args, std::int64_t length) {
  const DType dtype = place("cpu", args.dtype).dtype;
  const std::int64_t kv_heads = args.kv_heads == 0 ? args.heads : args.kv_heads;
  const Shape query{args.batch, args.heads, length, args.head_dim};
  const Shape key{args.batch, kv_heads, length, args.head_dim};
  const Shape rows{args.batch, args.heads, length};
  const OwnedTensor q = random_tensor(dtype, query, 1), k = random_tensor(dtype, key, 2),
                    v = random_tensor(dtype, key, 3), q2 = random_tensor(dtype, query, 4),
                    k2 = random_tensor(dtype, key, 5), d_out = random_tensor(dtype, query, 6);
  const OwnedTensor o(dtype, query), state(dtype, rows), dq(dtype, query), dk(dtype, key),
      dv(dtype, key), dq2(dtype, query), dk2(dtype, key);

  Context ctx;
  ctx.threads = thread_count(args.threads);
  AttentionProblem problem;
  problem.q = q, problem.k = k, problem.v = v, problem.o = o, problem.do_ = d_out;
  problem.dq = dq, problem.dk = dk, problem.dv = dv;
  problem.row_state = state;
  problem.score = find_score(args.score);
  problem.normalizer = args.normalizer;
  problem.scale = default_scale(problem.score, args.head_dim);
  problem.causal = !args.full;
  if (problem.score == Score::piecewise) {
    problem.q2 = q2, problem.k2 = k2, problem.dq2 = dq2, problem.dk2 = dk2;
    problem.threshold = length / 2;
  }
  std::vector<OwnedTensor> parameters;
  const NormalizerInfo& normalizer = find_normalizer(args.normalizer);
  for (std::size_t i = 0; i < args.parameters.size() && i < normalizer.parameters.size(); ++i) {
    parameters.emplace_back(dtype, Shape{args.heads});
    dispatch_floating(dtype, [&]<class T>() {
      std::fill_n(parameters[i].as<T>(), args.heads, T(args.parameters[i]));
    });
    problem.head_parameters[i] = parameters[i];
  }
  const AttentionImplementation& implementation = choose(args.implementation, problem);
  const OwnedTensor workspace(DType::u8, {workspace_bytes(implementation, ctx, problem)});
  problem.workspace = workspace;

  const double forward = median_ms(args.repeats, [&] { implementation.forward(ctx, problem); });
  const double both = median_ms(args.repeats, [&] {
    implementation.forward(ctx, problem);
    implementation.backward(ctx, problem);
  });
  // FlashAttention's convention: two products forward, five backward, half of it when causal.
  const double flops = 4.0 * double(args.batch * args.heads) * double(length) * double(length) *
                       double(args.head_dim) / (args.full ? 1 : 2);
  return {{"bench", "attention"},
          {"implementation", implementation.name()},
          {"score", args.score},
          {"normalizer", args.normalizer},
          {"dtype", args.dtype},
          {"causal", !args.full},
          {"B", args.batch},
          {"H", args.heads},
          {"Hk", kv_heads},
          {"L", length},
          {"D", args.head_dim},
          {"threads", ctx.threads},
          {"forward_ms", forward},
          {"forward_backward_ms", both},
          {"forward_gflops", flops / forward * 1e-6},
          {"forward_backward_gflops", 3.5 * flops / both * 1e-6},
          {"workspace_mib", double(workspace.view().bytes()) / (1 << 20)},
          {"peak_rss_mib", peak_resident_mib()}};
}

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t layers = 4, heads = 4, dim = 256, context = 256, batch = 8, vocab = 256;
  std::int64_t steps = 20, warmup = 5, threads = 0;
  bool statistics = false;
};

RunConfig bench_config(const TrainArguments& args) {
  if (!args.config.empty()) return load_run_config(args.config, args.overrides);
  RunConfig config;
  config.name = "bench";
  config.model.layers = args.layers;
  config.model.heads = config.model.kv_heads = args.heads;
  config.model.dim = args.dim;
  config.model.mlp_dim = 4 * args.dim;
  config.model.context = args.context;
  config.model.vocab = args.vocab;
  config.attention.n = HeadParameterConfig::fixed(0);
  config.data.split = {4 * args.batch * (args.context + 1) + 100000, args.context + 1,
                       args.context + 1};
  config.train.batch = args.batch;
  config.train.threads = args.threads;
  validate(config);
  return config;
}

int bench_train(const TrainArguments& args) {
  positive("--steps", args.steps);
  const RunConfig config = bench_config(args);
  Trainer trainer(config);
  ActivationStatistics statistics(config.analysis, config.model.heads);
  for (std::int64_t s = 0; s < args.warmup; ++s) trainer.step(nullptr);
  std::vector<double> times;
  for (std::int64_t s = 0; s < args.steps; ++s) {
    const auto begin = std::chrono::steady_clock::now();
    if (args.statistics) statistics.begin_step();
    trainer.step(args.statistics ? &statistics : nullptr);
    if (args.statistics) statistics.end_step();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(times.begin(), times.end());
  const double ms = times[times.size() / 2];
  const double tokens = double(config.train.batch * config.train.accumulate * config.model.context);
  const Json json{{"bench", "train"},
                  {"name", config.name},
                  {"score", config.attention.score},
                  {"normalizer", config.attention.normalizer},
                  {"params", trainer.parameters().count()},
                  {"batch", config.train.batch},
                  {"context", config.model.context},
                  {"threads", trainer.context().threads},
                  {"statistics", args.statistics},
                  {"ms", ms},
                  {"tokens_per_s", tokens / ms * 1e3}};
  fmt::print("{}\n", json.dump());
  return 0;
}

void add_bench_attention(CLI::App& bench, CommandBody& body) {
  auto args = std::make_shared<AttentionArguments>();
  CLI::App* command = bench.add_subcommand("attention", "One attention call, forward and backward");
  command->add_option("--length", args->lengths, "Tokens; several are timed one by one");
  command->add_option("--score", args->score)->capture_default_str();
  command->add_option("--normalizer", args->normalizer)->capture_default_str();
  command->add_option(
      "--parameters", args->parameters,
      "Per-head parameters of the normaliser, in its order (softmax_n: n, sink_logit)");
  command->add_option("--implementation", args->implementation)->capture_default_str();
  command->add_option("--dtype", args->dtype)->check(CLI::IsMember({"fp32", "fp64"}));
  command->add_option("--batch", args->batch)->capture_default_str();
  command->add_option("--heads", args->heads)->capture_default_str();
  command->add_option("--kv-heads", args->kv_heads, "Default: as many as heads");
  command->add_option("--head-dim", args->head_dim)->capture_default_str();
  command->add_flag("--full", args->full, "Not causal");
  command->add_option("--threads", args->threads, "0: all cores")->capture_default_str();
  command->add_option("--repeats", args->repeats)->capture_default_str();
  command->footer("Example: quietformer bench attention --normalizer sigmoid --length 1024 2048");
  command->callback([args, &body] {
    body = [args] {
      positive("--batch", args->batch), positive("--heads", args->heads);
      positive("--head-dim", args->head_dim), positive("--repeats", args->repeats);
      for (const std::int64_t length : args->lengths) positive("--length", length);
      for (const std::int64_t length : args->lengths)
        fmt::print("{}\n", bench_attention(*args, length).dump());
      return 0;
    };
  });
}

void add_bench_train(CLI::App& bench, CommandBody& body) {
  auto args = std::make_shared<TrainArguments>();
  CLI::App* command = bench.add_subcommand(
      "train", "Optimizer steps of a GPT-2-shaped model (softmax, n = 0) or of a config");
  command->add_option("CONFIG", args->config, "YAML config; replaces the shape options");
  command->add_option("OVERRIDES", args->overrides, "section.key=value");
  command->add_option("--layers", args->layers)->capture_default_str();
  command->add_option("--heads", args->heads)->capture_default_str();
  command->add_option("--dim", args->dim)->capture_default_str();
  command->add_option("--context", args->context)->capture_default_str();
  command->add_option("--batch", args->batch)->capture_default_str();
  command->add_option("--vocab", args->vocab)->capture_default_str();
  command->add_option("--steps", args->steps)->capture_default_str();
  command->add_option("--warmup", args->warmup)->capture_default_str();
  command->add_option("--threads", args->threads, "0: all cores")->capture_default_str();
  command->add_flag("--statistics", args->statistics, "Record statistics on every step");
  command->footer("Example: quietformer bench train --layers 4 --heads 4 --dim 256 --context 256");
  command->callback([args, &body] { body = [args] { return bench_train(*args); }; });
}

}  // namespace

void add_bench(CLI::App& app, CommandBody& body) {
  CLI::App* command = app.add_subcommand("bench", "Time attention or training; JSON lines");
  command->require_subcommand(1);
  command->footer("Example: quietformer bench attention --length 512 1024");
  add_bench_attention(*command, body);
  add_bench_train(*command, body);
}

}  // namespace quietformer
