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
#include "train/text.h"

namespace quietformer {
namespace {

struct GenerateArguments {
  std::string model, prompt, tokenizer, device = "auto";
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

/// The prompt's bytes, or its tokens; there must be one, and all must be the model's.
std::vector<std::int32_t> prompt_ids(const std::string& prompt, const Tokenizer* tokenizer,
                                     const ModelConfig& model) {
  if (tokenizer == nullptr) {
    std::vector<std::int32_t> ids;
    for (const char c : prompt) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::vector<std::int32_t> ids = tokenizer->encode(prompt);
  if (ids.empty())
    throw InputError(fmt::format("--prompt: gives no tokens with {}", tokenizer->path()));
  for (const std::int32_t id : ids)
    if (id >= model.vocab)
      throw InputError(fmt::format(
          "--prompt: {} gives the id {}, expected ids below the model's vocabulary of {}",
          tokenizer->path(), id, model.vocab));
  return ids;
}

/// Prints what the newest id adds to the text.
class Printer {
 public:
  Printer(const Tokenizer* tokenizer, const std::vector<std::int32_t>& prompt)
      : tokenizer_(tokenizer),
        printed_(tokenizer == nullptr ? 0 : tokenizer->decode(prompt).size()) {}

  void print(const std::vector<std::int32_t>& ids) {
    if (tokenizer_ == nullptr) {
      std::fputc(ids.back(), stdout);
    } else {
      const std::string text = tokenizer_->decode(ids);
      if (text.size() > printed_)  // a decoder may strip the end
        std::fwrite(text.data() + printed_, 1, text.size() - printed_, stdout);
      printed_ = std::max(printed_, text.size());
    }
    std::fflush(stdout);
  }

 private:
  const Tokenizer* tokenizer_;
  std::size_t printed_;
};

int generate(const GenerateArguments& args) {
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
  const std::unique_ptr<const Tokenizer> tokenizer = model_tokenizer(loaded, args.tokenizer);
  const bool bytes = loaded.trained_here && loaded.config.data.source == "bytes";
  if (!bytes && tokenizer == nullptr)
    throw InputError(fmt::format(
        "{}: a model of tokens without a tokenizer, expected one beside it or --tokenizer",
        args.model));
  std::vector<std::int32_t> ids = prompt_ids(args.prompt, tokenizer.get(), loaded.config.model);
  const std::int64_t context = loaded.config.model.context;
  const Context ctx = context_for(loaded.placement);
  Arena arena("activations", ctx.device);
  const Slot window = arena.declare("window", DType::i32, {1, context});
  loaded.model->declare(ctx, arena, {1, context}, Purpose::inference);
  arena.commit();

  std::fwrite(args.prompt.data(), 1, args.prompt.size(), stdout);
  Printer printer(tokenizer.get(), ids);
  TokenSampler sampler(args.sampling, args.seed);
  for (std::int64_t n = 0; n < args.tokens && stop_signal() == 0; ++n) {
    const std::int64_t length = std::min<std::int64_t>(context, std::int64_t(ids.size()));
    const Tensor last(ids.data() + ids.size() - length, DType::i32, {1, length});
    const Tensor input(window.get().data, DType::i32, {1, length}, ctx.device);
    if (ctx.device.type == DeviceType::cuda)
      cuda::copy(input, last);
    else
      std::copy_n(last.as<std::int32_t>(), length, input.as<std::int32_t>());
    const std::vector<float> row = to_floats(loaded.model->forward(ctx, {input}, LogitRows::last));
    // A model's vocabulary may be padded beyond the tokenizer's.
    const auto vocab = tokenizer == nullptr
                           ? std::ssize(row)
                           : std::min<std::int64_t>(std::ssize(row), tokenizer->vocab_size());
    ids.push_back(sampler.draw(row.data(), vocab, std::uint64_t(n)));
    if (tokenizer != nullptr && ids.back() == tokenizer->special().eos) break;
    printer.print(ids);
  }
  std::fputc('\n', stdout);
  return stop_signal() == 0 ? 0 : 128 + stop_signal();
}

}  // namespace

void add_generate(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text");
  command->add_option("CHECKPOINT", args->model, "Checkpoint or run directory")->required();
  command->add_option("--prompt", args->prompt, "Text to continue")->required();
  command->add_option("--tokens", args->tokens, "Bytes or tokens to add")->capture_default_str();
  command->add_option("--tokenizer", args->tokenizer,
                      "tokenizer.json or its directory (default: the model's own)");
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
