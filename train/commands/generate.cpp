#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/half.h"
#include "train/commands/command.h"
#include "train/host_view.h"
#include "train/load_model.h"
#include "train/sampling.h"
#include "train/stop_signal.h"

namespace quietformer {
namespace {

struct Arguments {
  std::string model, prompt, device = "auto";
  std::int64_t tokens = 256;
  std::uint64_t seed = 1;
  SamplingConfig sampling;
};

/// The logits of one token, from any device and in any type.
std::vector<float> to_floats(const Tensor& logits) {
  const HostView host(logits);
  const std::int64_t vocab = logits.count();
  std::vector<float> row(static_cast<std::size_t>(vocab));
  if (logits.dtype == DType::bf16 || logits.dtype == DType::f16) {
    const auto* const bits = static_cast<const std::uint16_t*>(host.view().data);
    const auto widen = logits.dtype == DType::bf16 ? bf16_to_float : f16_to_float;
    std::transform(bits, bits + vocab, row.begin(), widen);
    return row;
  }
  dispatch_floating(logits.dtype, [&]<class T>() {
    for (std::int64_t v = 0; v < vocab; ++v) row[v] = static_cast<float>(host.view().as<T>()[v]);
  });
  return row;
}

int generate(const Arguments& args) {
  validate(args.sampling);
  if (args.tokens < 0)
    throw InputError(fmt::format("--tokens: found {}, expected 0 or more", args.tokens));
  if (args.prompt.empty()) throw InputError("--prompt: expected at least one byte");
  LoadedModel loaded = load_model(args.model, args.device);
  if (is_encoder(loaded.config.model))
    throw InputError(
        fmt::format("{}: model.type {} guesses masked tokens and cannot continue a text; expected "
                    "gpt",
                    args.model, loaded.config.model.type));
  if (!loaded.trained_here || loaded.config.data.source != "bytes")
    throw InputError(fmt::format(
        "{}: a model of tokens, and tokenisers are not supported yet; expected a byte model",
        args.model));
  const std::int64_t context = loaded.config.model.context;
  const Context ctx = context_for(loaded.placement);
  Arena arena("activations", ctx.device);
  const Slot window = arena.declare("window", DType::i32, {1, context});
  loaded.model->declare(ctx, arena, {1, context}, Purpose::inference);
  arena.commit();

  std::vector<std::int32_t> text;
  for (const char c : args.prompt) text.push_back(static_cast<unsigned char>(c));
  std::fwrite(args.prompt.data(), 1, args.prompt.size(), stdout);
  TokenSampler sampler(args.sampling, args.seed);
  for (std::int64_t n = 0; n < args.tokens && stop_signal() == 0; ++n) {
    const std::int64_t length = std::min<std::int64_t>(context, std::int64_t(text.size()));
    const Tensor last(text.data() + text.size() - length, DType::i32, {1, length});
    const Tensor input(window.get().data, DType::i32, {1, length}, ctx.device);
    if (ctx.device.type == DeviceType::cuda)
      cuda::copy(input, last);
    else
      std::copy_n(last.as<std::int32_t>(), length, input.as<std::int32_t>());
    const std::vector<float> row = to_floats(loaded.model->forward(ctx, {input}, LogitRows::last));
    text.push_back(sampler.draw(row.data(), std::int64_t(row.size()), std::uint64_t(n)));
    std::fputc(text.back(), stdout);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  return stop_signal() == 0 ? 0 : 128 + stop_signal();
}

}  // namespace

void add_generate(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  command->add_option("CHECKPOINT", args->model, "Checkpoint or run directory")->required();
  command->add_option("--prompt", args->prompt, "Text to continue")->required();
  command->add_option("--tokens", args->tokens, "Bytes to add")->capture_default_str();
  command->add_option("--temperature", args->sampling.temperature, "0: always the most likely")
      ->capture_default_str();
  command->add_option("--top-k", args->sampling.top_k, "Keep the k most likely; 0: all")
      ->capture_default_str();
  command->add_option("--top-p", args->sampling.top_p, "Keep the fewest that reach p")
      ->capture_default_str();
  command->add_option("--device", args->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--seed", args->seed, "Same seed, same text")->capture_default_str();
  command->footer(
      "Example: quietformer generate runs/demo-softmax1 --prompt '<page>' --tokens 200 --top-k 40");
  command->callback([args, &body] { body = [args] { return generate(*args); }; });
}

}  // namespace quietformer
