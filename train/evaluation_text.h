// The text that a command evaluates a model on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/masking.h"
#include "data/source.h"
#include "data/split.h"
#include "train/load_model.h"

namespace quietformer {

/// What a user asked for; empty: the default.
struct TextRequest {
  std::string data;       // a file: text, or ids in a *.bin. By default that of the run
  std::string split;      // train, validation, test or all; by default test, of `data` all
  std::string tokenizer;  // tokenizer.json or its directory; by default the model's own
  std::optional<std::int64_t> mask_token;  // of an encoder; by default that of its run
};

struct EvaluationText {
  std::unique_ptr<const TokenSource> source;
  std::string path, split;
  Span span;
  std::optional<Span> train;       // the training part, where something says which that is
  std::optional<Masking> masking;  // of an encoder's tokens: as in its run, whatever the text

  /// Bits per byte of a loss in nats per token; absent for a file of ids, whose text nobody knows.
  std::optional<double> bits_per_byte(double loss) const;
};

/// InputError in one line that names the option, as the command line has them.
EvaluationText open_text(const LoadedModel& model, const TextRequest& request);

}  // namespace quietformer
