// What a run reports of its final weights besides ActivationStatistics, from a few sequences that
// it looks at closely.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {

class Hdf5Writer;

/// How many numbers lie where, by |x| in half octaves: count[i] of [2^(lowest + i / 2),
/// 2^(lowest + (i + 1) / 2)).
struct MagnitudeHistogram {
  static constexpr int kBinsPerOctave = 2, kLowestExponent = -16, kHighestExponent = 16;
  static constexpr int kBins = kBinsPerOctave * (kHighestExponent - kLowestExponent);
  std::int64_t below = 0;  // zeros among them
  std::int64_t above = 0;  // infinities and NaN among them
  std::array<std::int64_t, kBins> counts{};

  void add(double magnitude) {                             // >= 0 or NaN
    constexpr std::uint64_t kRootOfTwo = 0x6a09e667f3bcd;  // the fraction of the double above it
    constexpr int kFractionBits = 52, kBias = 1023;
    const auto bits = std::bit_cast<std::uint64_t>(magnitude);
    const bool upper = (bits & ((std::uint64_t{1} << kFractionBits) - 1)) >= kRootOfTwo;
    const int bin =
        (static_cast<int>(bits >> kFractionBits) - kBias - kLowestExponent) * kBinsPerOctave +
        (upper ? 1 : 0);
    ++(bin < 0 ? below : bin < kBins ? counts[static_cast<std::size_t>(bin)] : above);
  }
  void merge(const MagnitudeHistogram& other) {
    below += other.below, above += other.above;
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  }
};

/// An activation (B,T,C). Infinity norms are largest absolute values, averaged over sequences; NaN
/// where no sequence had a real position.
struct FinalSite {
  std::string site;
  MagnitudeHistogram histogram;
  std::vector<double> norm_by_token;    // (T): over the channels of that position
  std::vector<double> norm_by_channel;  // (C): over the positions of that channel
};

/// Of the residual stream behind the blocks, C channels. Dettmers, Lewis, Belkada, Zettlemoyer
/// (LLM.int8, 2022, section 4) call a feature dimension an outlier whose magnitude is at least 6,
/// in at least 25 % of layers and 6 % of all sequence positions across all hidden states. Here: a
/// channel with some |x| > 6 in at least a quarter of the blocks' outputs, and in at least 6 % of
/// all pairs of a block and a position.
struct OutlierDimensions {
  static constexpr double kMagnitude = 6, kLayers = 0.25, kPositions = 0.06;
  std::int64_t layers = 0;                   // looked at
  std::vector<std::int64_t> channel_layers;  // (C): in how many of them
  std::vector<double> channel_positions;     // (C): share of the pairs
  std::vector<std::int64_t> channels;        // those that meet both
};

/// What the heads of one layer attend to: means over the real positions of all sequences.
struct AttentionProfile {
  std::string layer;  // "blocks.0.attention"
  // By head:
  std::vector<double> first_token_mass;  // weight on the first token
  std::vector<double> row_sum;           // of all weights
  std::vector<double> sink_mass;         // what the sink took; empty: no such thing
  /// Of the weights divided by their sum, in nats; over rows that have some weight.
  std::vector<double> entropy;
};

struct FinalResults {
  std::int64_t sequences = 0;
  std::vector<FinalSite> sites;
  OutlierDimensions outliers;
  std::vector<AttentionProfile> attention;
};

/// As group `final` of a file.
void write_final(Hdf5Writer& file, const FinalResults& results);

}  // namespace quietformer
