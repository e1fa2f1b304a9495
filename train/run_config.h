// A whole run in one struct: what `quietformer train` reads and what a checkpoint carries.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/config.h"
#include "core/config.h"
#include "data/masking.h"
#include "layers/model_config.h"
#include "optim/config.h"

namespace quietformer {

/// `data.mlm:`, for encoders alone.
struct MlmConfig {
  double probability = 0.15;               // of a token to be masked
  std::optional<std::int64_t> mask_token;  // absent ("default"): 256, for data.source bytes

  template <class V>
  void visit(V& v) {
    v.field("probability", probability);
    v.field("mask_token", mask_token);
  }
};

/// `data:`
struct DataConfig {
  std::string source = "bytes";              // bytes | tokens
  std::string path = "generator:wikipedia";  // a file, or the bundled generator
  std::string tokenizer;  // of tokens: tokenizer.json or its directory (train/text.h)
  std::array<std::int64_t, 3> split{9000000, 500000, 500000};  // tokens: train, validation, test
  MlmConfig mlm;

  template <class V>
  void visit(V& v) {
    v.field("source", source);
    v.field("path", path);
    v.field("tokenizer", tokenizer);
    v.field("split", split);
    v.section("mlm", mlm);
  }
};

/// `train:`. Everything "every" and "steps" counts optimizer steps.
struct TrainConfig {
  std::string device = "auto";  // auto | cpu | cuda | cuda:N (train/placement.h)
  std::string dtype = "auto";   // auto | fp32 | bf16 | fp16 | fp64; 16 bits on GPUs alone
  std::int64_t batch = 64;      // sequences per micro-step, over all ranks
  std::int64_t accumulate = 1;  // micro-steps per optimizer step
  std::int64_t steps = 5000;
  std::int64_t eval_every = 500;   // 0: only at the end, like checkpoint_every
  std::int64_t eval_batches = 20;  // per evaluation, spread evenly; at the end all count
  std::int64_t checkpoint_every = 1000;
  std::int64_t keep = 3;  // newest checkpoints that stay, besides the best
  std::int64_t log_every = 10;
  bool tensorboard = false;  // also event files, in a build with protobuf
  std::uint64_t seed = 1;
  bool deterministic = false;  // CUDA only; the CPU always is
  bool tf32 = false;           // CUDA only: fp32 products may round their operands to 10 bits
  std::int64_t threads = 0;    // 0: all cores this process may use

  template <class V>
  void visit(V& v) {
    v.field("device", device);
    v.field("dtype", dtype);
    v.field("batch", batch);
    v.field("accumulate", accumulate);
    v.field("steps", steps);
    v.field("eval_every", eval_every);
    v.field("eval_batches", eval_batches);
    v.field("checkpoint_every", checkpoint_every);
    v.field("keep", keep);
    v.field("log_every", log_every);
    v.field("tensorboard", tensorboard);
    v.field("seed", seed);
    v.field("deterministic", deterministic);
    v.field("tf32", tf32);
    v.field("threads", threads);
  }
};

/// Everything that decides what a run computes. Readable (load_run_config) and writable (to_yaml).
struct RunConfig {
  std::string name = "run";
  ModelConfig model;
  AttentionConfig attention;
  DataConfig data;
  OptimConfig optim;
  TrainConfig train;
  AnalysisConfig analysis;

  template <class V>
  void visit(V& v) {
    v.field("name", name);
    v.section("model", model);
    v.section("attention", attention);
    v.section("data", data);
    v.section("optim", optim);
    v.section("train", train);
    v.section("analysis", analysis);
  }
};

// Head parameters: number | [per head] | {learned: true, init: x} | {from: a, to: b, steps: s};
// sigmoid_bias also takes the word -log_context, gamma a number over the context: -4/context.
void read_value(const ConfigValue& value, const std::string& path, HeadParameterConfig& out);
ConfigValue write_value(const HeadParameterConfig& value);

/// Reads, applies overrides and validates. InputError on anything wrong. With `init`, keys of model
/// and attention that neither file nor overrides give are those of that config, not the defaults.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides,
                          const RunConfig* init = nullptr);

/// For configs that are made of parts (train/sweep_file.h): the tree of a file, what it says when
/// `more` is put on top, and the config that it then is, which nobody has validated. InputError as
/// above.
ConfigValue load_run_tree(const std::string& path);
void merge_run_tree(ConfigValue& onto, const ConfigValue& more);
RunConfig read_run_tree(const ConfigValue& tree);

/// From resolved YAML text, such as a checkpoint's; `name` appears in messages.
RunConfig parse_run_config(const std::string& yaml, const std::string& name);

/// Every key with its value, in order.
std::string to_yaml(const RunConfig& config);

/// Refuses impossible and unsupported values, naming key, value and expectation.
void validate(const RunConfig& config);

/// How an encoder's tokens are masked: random ids are those of the source, bytes for bytes. Nothing
/// for a model that predicts the next token.
std::optional<Masking> masking_of(const RunConfig& config);

/// Keys in which two configs differ, as "model.layers: 2 here, 3 there". Left out are those that
/// cannot change what a run computes (train.threads, train.keep, train.tensorboard) and those that
/// only change how accurately (train.device, train.tf32, train.deterministic; train.dtype, unless
/// one of both is fp64): a run may go on elsewhere.
std::vector<std::string> differences(const RunConfig& here, const RunConfig& there);

}  // namespace quietformer
