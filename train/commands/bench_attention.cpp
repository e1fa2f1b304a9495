#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "attention/attention.h"
#include "core/buffer.h"
#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/cuda/timer.h"
#include "core/half.h"
#include "core/parallel.h"
#include "train/commands/bench.h"
#include "train/placement.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

struct AttentionArguments {
  std::vector<std::int64_t> lengths{512, 1024, 2048, 4096};
  std::string score = "dot", normalizer = "softmax_n", implementation = "auto", dtype = "fp32",
              device = "cpu";
  std::int64_t batch = 1, tokens = 0, heads = 8, kv_heads = 0, head_dim = 64;
  bool full = false, deterministic = false;
  int threads = 0, repeats = 0;
  std::vector<double> parameters;
};

/// Times calls: on the CPU by the wall clock, on a GPU by its own.
class Stopwatch {
 public:
  /// `repeats` 0: 7 on the CPU; on a GPU as many as take 80 ms.
  Stopwatch(const Context& ctx, int repeats) : ctx_(ctx), repeats_(repeats) {
    if (ctx.device.type != DeviceType::cuda) return;
    timer_.emplace(ctx);
    cache_ = OwnedTensor(DType::u8, {kCacheBytes}, ctx.device);
  }

  /// Median time of a call in ms, after warming up.
  template <class F>
  double median_ms(const F& call) {
    std::vector<double> times;
    if (!timer_) {
      for (int i = 0; i < kWarmUp; ++i) call();
      for (int i = 0; i < (repeats_ > 0 ? repeats_ : 7); ++i) {
        const auto begin = std::chrono::steady_clock::now();
        call();
        times.push_back(
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
                .count());
      }
      return median(times);
    }
    for (int i = 0; i < kWarmUp; ++i) one_call(call);
    const double estimate = std::max(one_call(call), 1e-3);
    const int repeats =
        repeats_ > 0 ? repeats_ : static_cast<int>(std::clamp(80 / estimate, 5.0, 400.0));
    // The clocks of an idle GPU rise with work: a quarter more, untimed.
    for (int i = 0; i < repeats / 4; ++i) one_call(call);
    for (int i = 0; i < repeats; ++i) times.push_back(one_call(call));
    return median(times);
  }

 private:
  static constexpr int kWarmUp = 2;
  static constexpr std::int64_t kCacheBytes = std::int64_t{256} << 20;

  /// The inputs of a call come from memory, not from the cache that the call before left behind.
  template <class F>
  double one_call(const F& call) {
    cuda::fill(ctx_, cache_, 0);
    timer_->start();
    call();
    timer_->stop();
    return timer_->milliseconds();
  }

  Context ctx_;
  int repeats_;
  std::optional<cuda::Timer> timer_;
  OwnedTensor cache_;
};

/// Deterministic, roughly normal numbers: the sum of four uniforms, scaled to variance 1.
OwnedTensor random_tensor(const Context& ctx, DType dtype, const Shape& shape,
                          std::uint32_t stream) {
  OwnedTensor host(dtype, shape);
  const RandomKey key = stream_key(1, RandomPurpose::initialisation, stream, 0);
  const auto number = [key](std::int64_t i) {
    const Philox4 bits = philox(key, std::uint32_t(i), std::uint32_t(i >> 32), 0, 0);
    float sum = -2;
    for (const std::uint32_t word : bits.word) sum += uniform24(word);
    return sum * 1.7320508f;
  };
  void* const data = host.view().data;
  parallel_for(ctx, shape.count(), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (dtype == DType::bf16) static_cast<std::uint16_t*>(data)[i] = float_to_bf16(number(i));
      if (dtype == DType::f16) static_cast<std::uint16_t*>(data)[i] = float_to_f16(number(i));
      if (dtype == DType::f32) static_cast<float*>(data)[i] = number(i);
      if (dtype == DType::f64) static_cast<double*>(data)[i] = double(number(i));
    }
  });
  if (ctx.device.type == DeviceType::cpu) return host;
  OwnedTensor there(dtype, shape, ctx.device);
  cuda::copy(there, host);
  return there;
}

/// A per-head parameter, the same for all heads.
OwnedTensor head_parameter(const Context& ctx, DType dtype, std::int64_t heads, double value) {
  OwnedTensor tensor(dtype, {heads}, ctx.device);
  if (ctx.device.type == DeviceType::cuda) {
    cuda::fill(ctx, tensor, value);
  } else {
    dispatch_floating(dtype, [&]<class T>() { std::fill_n(tensor.as<T>(), heads, T(value)); });
  }
  return tensor;
}

/// The most memory this process ever held.
double peak_resident_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / 1024;
}

Json bench_attention(const AttentionArguments& args, std::int64_t length) {
  const Placement where = place(args.device, args.dtype);
  const DType dtype = where.dtype, sums = accumulation_dtype(dtype);
  const std::int64_t kv_heads = args.kv_heads == 0 ? args.heads : args.kv_heads;
  const std::int64_t batch =
      args.tokens > 0 ? std::max<std::int64_t>(1, args.tokens / length) : args.batch;
  const Shape query{batch, args.heads, length, args.head_dim};
  const Shape key{batch, kv_heads, length, args.head_dim};
  Context ctx;
  ctx.device = where.device;
  ctx.threads = thread_count(args.threads);
  ctx.deterministic = args.deterministic || ctx.device.type == DeviceType::cpu;

  const auto input = [&](const Shape& shape, std::uint32_t stream) {
    return random_tensor(ctx, dtype, shape, stream);
  };
  const OwnedTensor q = input(query, 1), k = input(key, 2), v = input(key, 3),
                    d_out = input(query, 6);
  const auto output = [&](const Shape& shape) { return OwnedTensor(dtype, shape, ctx.device); };
  const OwnedTensor o = output(query), dq = output(query), dk = output(key), dv = output(key),
                    state(sums, {batch, args.heads, length}, ctx.device);
  OwnedTensor q2, k2, dq2, dk2;

  AttentionProblem problem;
  problem.q = q, problem.k = k, problem.v = v, problem.o = o, problem.do_ = d_out;
  problem.dq = dq, problem.dk = dk, problem.dv = dv;
  problem.row_state = state;
  problem.score = find_score(args.score);
  problem.normalizer = args.normalizer;
  problem.scale = default_scale(problem.score, args.head_dim);
  problem.causal = !args.full;
  if (problem.score == Score::piecewise) {
    q2 = input(query, 4), k2 = input(key, 5), dq2 = output(query), dk2 = output(key);
    problem.q2 = q2, problem.k2 = k2, problem.dq2 = dq2, problem.dk2 = dk2;
    problem.threshold = length / 2;
  }
  std::vector<OwnedTensor> parameters;
  const NormalizerInfo& normalizer = find_normalizer(args.normalizer);
  for (std::size_t i = 0; i < args.parameters.size() && i < normalizer.parameters.size(); ++i) {
    parameters.push_back(head_parameter(ctx, sums, args.heads, args.parameters[i]));
    problem.head_parameters[i] = parameters[i];
  }
  const AttentionImplementation& implementation = choose(args.implementation, problem);
  const OwnedTensor workspace(DType::u8, {workspace_bytes(implementation, ctx, problem)},
                              ctx.device);
  problem.workspace = workspace;

  Stopwatch stopwatch(ctx, args.repeats);
  const double forward = stopwatch.median_ms([&] { implementation.forward(ctx, problem); });
  const double backward = stopwatch.median_ms([&] { implementation.backward(ctx, problem); });
  const double both = stopwatch.median_ms([&] {
    implementation.forward(ctx, problem);
    implementation.backward(ctx, problem);
  });
  // FlashAttention's convention: two products forward, five backward, half of it when causal.
  const double flops = 4.0 * double(batch * args.heads) * double(length) * double(length) *
                       double(args.head_dim) / (args.full ? 1 : 2);
  return {{"bench", "attention"},
          {"device", name_of(ctx.device)},
          {"implementation", implementation.name()},
          {"score", args.score},
          {"normalizer", args.normalizer},
          {"parameters", args.parameters},
          {"dtype", args.dtype},
          {"causal", !args.full},
          {"B", batch},
          {"H", args.heads},
          {"Hk", kv_heads},
          {"L", length},
          {"D", args.head_dim},
          {"threads", ctx.threads},
          {"deterministic", ctx.deterministic},
          {"forward_ms", forward},
          {"backward_ms", backward},
          {"forward_backward_ms", both},
          {"forward_gflops", flops / forward * 1e-6},
          {"backward_gflops", 2.5 * flops / backward * 1e-6},
          {"forward_backward_gflops", 3.5 * flops / both * 1e-6},
          {"workspace_mib", double(workspace.view().bytes()) / (1 << 20)},
          {"peak_rss_mib", peak_resident_mib()}};
}

}  // namespace

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
  command->add_option("--device", args->device)->capture_default_str();
  command->add_option("--dtype", args->dtype)
      ->check(CLI::IsMember({"fp32", "fp64", "bf16", "fp16"}))
      ->capture_default_str();
  command->add_option("--batch", args->batch)->capture_default_str();
  command->add_option("--tokens", args->tokens, "Replaces --batch: so many by the length");
  command->add_option("--heads", args->heads)->capture_default_str();
  command->add_option("--kv-heads", args->kv_heads, "Default: as many as heads");
  command->add_option("--head-dim", args->head_dim)->capture_default_str();
  command->add_flag("--full", args->full, "Not causal");
  command->add_flag("--deterministic", args->deterministic,
                    "The same bits in every run (the CPU: always)");
  command->add_option("--threads", args->threads, "0: all cores")->capture_default_str();
  command->add_option("--repeats", args->repeats, "0: 7; on a GPU as many as take 80 ms")
      ->capture_default_str();
  command->footer("Example: quietformer bench attention --normalizer sigmoid --length 1024 2048");
  command->callback([args, &body] {
    body = [args] {
      expect_positive("--batch", args->batch), expect_positive("--heads", args->heads);
      expect_positive("--head-dim", args->head_dim);
      if (!is_device_name(args->device))
        throw InputError(
            fmt::format("--device: found '{}', expected auto, cpu, cuda or cuda:N", args->device));
      for (const std::int64_t length : args->lengths) expect_positive("--length", length);
      for (const std::int64_t length : args->lengths)
        fmt::print("{}\n", bench_attention(*args, length).dump());
      return 0;
    };
  });
}

}  // namespace quietformer
