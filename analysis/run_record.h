// What a run directory says, as far as runs are compared.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/named_value.h"

namespace quietformer {

/// A quantity over training. Steps increase; values are finite.
struct Curve {
  std::string name;
  std::vector<std::int64_t> steps;
  std::vector<double> values;
};

/// How many numbers have which size: counts[i] is of 2^e <= |x| < 2^(e + 1 / bins_per_octave) with
/// e = lowest_exponent + i / bins_per_octave; below and above are the rest (zeros are below).
struct Histogram {
  int bins_per_octave = 0;
  int lowest_exponent = 0;
  double below = 0, above = 0;
  std::vector<double> counts;
};

/// A site of results.json. Numbers that are null there are absent here.
struct SiteRecord {
  std::string name;
  std::vector<NamedValue> values;  // "kurtosis", ...
  std::optional<Histogram> histogram;
};

/// A quantity of one attention layer, per head.
struct HeadValues {
  std::string attention;  // "blocks.0.attention"
  std::string quantity;   // "first_token_mass", "sink_mass", "entropy" (nats)
  std::vector<double> values;
};

/// What one input of a product costs when it is quantised: see `quietformer quantize`.
struct RecordedSite {
  std::string name;
  double contribution =
      0;  // nats: what the loss gains when this site alone stays in floating point
};

struct QuantizedScheme {
  std::string name;                                  // "W8A8"
  std::string weights;                               // "8 bits per tensor"
  std::string activations;                           // "8 bits, percentile"
  std::optional<double> float_loss, quantized_loss;  // nats per token
  std::optional<double> bits_per_byte_gap;
  std::vector<RecordedSite> sites;
};

struct RunRecord {
  std::string directory;
  std::string name;       // of its config
  std::string attention;  // "dot softmax_n n=1"
  std::string seed;       // empty where the config says none
  /// Every key of the resolved config, dotted, with its value in YAML.
  std::vector<std::pair<std::string, std::string>> config;
  /// Where it ran and what built the program; empty for runs that did not say.
  std::vector<std::pair<std::string, std::string>> environment;
  /// run_metrics.h says which.
  std::vector<NamedValue> metrics;
  std::vector<Curve> log;         // "loss", "validation_loss", "grad_norm", "tokens_per_second"
  std::vector<Curve> statistics;  // "SITE/QUANTITY" of stats.h5
  std::vector<SiteRecord> sites;
  std::optional<double> outlier_dimensions;
  std::vector<HeadValues> heads;
  std::vector<QuantizedScheme> schemes;
};

/// Reads config.yaml, results.json, log.jsonl, stats.h5 and quantized.json of every directory. What
/// is missing, truncated or not ours is one warning naming the file. Without a readable config.yaml
/// or results.json a directory is left out, and so is one given twice; of the other files only what
/// they hold is missing (a quantized.json need not be there, nor a stats.h5 of a run that kept
/// none). InputError when no directory is left.
std::vector<RunRecord> read_run_records(std::span<const std::string> directories);

/// Parts of read_run_records(); InputError naming the file.
void read_results(const std::string& path, RunRecord& run);
void read_quantized(const std::string& path, RunRecord& run);

}  // namespace quietformer
