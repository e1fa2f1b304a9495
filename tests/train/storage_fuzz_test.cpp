// Damaged files never crash the readers: each is read normally or is one InputError.
#include <gtest/gtest.h>

#include <functional>

#include "core/log.h"
#include "core/random.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "train/checkpoint.h"
#include "train/hf_gpt2.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

// A stream of numbers that depends on the seed alone.
class Dice {
 public:
  explicit Dice(std::uint32_t seed) : seed_(seed) {}
  std::size_t below(std::size_t bound) {
    return philox({{seed_, 77}}, next_++, 0, 0, 0).word[0] % bound;
  }

 private:
  std::uint32_t seed_, next_ = 0;
};

// Changes, removes, repeats or inserts a few bytes within [0, limit).
std::string mutate(std::string bytes, std::size_t limit, Dice& dice) {
  static const std::string tokens = "{}[]\",:0123456789.-eE\\ntf\x00\xff";
  for (std::size_t edits = 1 + dice.below(4); edits-- > 0 && !bytes.empty();) {
    const std::size_t at = dice.below(std::min(limit, bytes.size()));
    switch (dice.below(6)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << dice.below(8)));
        break;
      case 1:
        bytes[at] = tokens[dice.below(tokens.size())];
        break;
      case 2:
        bytes.erase(at, 1 + dice.below(20));
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, dice.below(60)));
        break;
      case 4:
        bytes.insert(at, 1, tokens[dice.below(tokens.size())]);
        break;
      default:
        if (dice.below(10) == 0) bytes.resize(at);
    }
  }
  return bytes;
}

// How many of `rounds` mutants `open` refused; anything but an InputError fails the test.
int refusals(const std::string& whole, std::size_t limit, std::uint32_t seed, int rounds,
             const std::function<void(const std::string&)>& open) {
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    Dice dice(seed + std::uint32_t(round));
    const std::string mutant = mutate(whole, limit, dice);
    try {
      open(mutant);
    } catch (const InputError& error) {
      ++refused;
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "round " << round << ": " << error.what();
    }
  }
  return refused;
}

TEST(StorageFuzz, SafetensorsHeaders) {
  const test::ScratchFolder folder;
  const OwnedTensor a = test::normal(DType::f32, {3, 4}, 1), b = test::normal(DType::f64, {2}, 2);
  const OwnedTensor c = test::normal(DType::f32, {}, 3);
  const std::vector<NamedTensor> tensors{{"blocks.0.a", a}, {"b", b}, {"c", c}};
  write_safetensors(folder / "m", tensors, {{"format", "pt"}});
  const std::string whole = test::contents_of(folder / "m");
  constexpr int kRounds = 20'000;
  const auto open = [&](const std::string& mutant) {
    test::put(folder / "x", mutant);
    const SafetensorsReader file(folder / "x");
    for (const SafetensorsEntry& entry : file.entries()) {
      if (entry.shape.size() > kMaxRank) continue;
      const OwnedTensor out(file.dtype(entry), file.shape(entry));
      file.read(entry, out);
    }
  };
  const int header = refusals(whole, whole.size() - 68, 1, kRounds, open);
  EXPECT_GT(header, kRounds / 2);
  EXPECT_LT(header, kRounds);  // some changes are harmless: the loop does reach the tensors
}

TEST(StorageFuzz, Checkpoints) {
  const test::ScratchFolder folder;
  const OwnedTensor a = test::normal(DType::f32, {3, 4}, 1);
  Checkpoint checkpoint;
  checkpoint.text["config"] = "name: x";
  checkpoint.integers["step"] = 5;
  checkpoint.tensors = {{"parameters/a", a}};
  write_checkpoint(folder / "c", checkpoint);
  const std::string whole = test::contents_of(folder / "c");
  int intact = 0;
  constexpr int kRounds = 10'000;
  const int refused = refusals(whole, whole.size(), 2, kRounds, [&](const std::string& mutant) {
    if (mutant == whole) {
      ++intact;
      return;
    }
    test::put(folder / "x", mutant);
    const CheckpointReader reader(folder / "x");
    ADD_FAILURE() << "a damaged checkpoint was opened";
  });
  EXPECT_EQ(refused + intact, kRounds);
  EXPECT_LT(intact, kRounds / 10);
}

TEST(StorageFuzz, HuggingFaceConfigs) {
  const test::ScratchFolder folder;
  const std::string whole =
      R"({"model_type": "gpt2", "n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 64,
  "vocab_size": 320, "n_inner": null, "activation_function": "gelu_new", "resid_pdrop": 0.0,
  "embd_pdrop": 0.0, "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": true,
  "scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false, "pruned_heads": {}})";
  constexpr int kRounds = 10'000;
  const ScopedLogSink quiet([](LogLevel, const std::string&) {});
  const int refused = refusals(whole, whole.size(), 3, kRounds, [&](const std::string& mutant) {
    test::put(folder / "config.json", mutant);
    ModelConfig model;
    AttentionConfig attention;
    read_hf_gpt2_config(folder.path(), model, attention);
  });
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, kRounds);
}

}  // namespace
}  // namespace quietformer
