// Where heads look: the weights of attention, summed up.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/final_results.h"
#include "analysis/host_copy.h"
#include "attention/attention.h"
#include "core/buffer.h"

namespace quietformer {

/// Computes every problem it is given once more, with the `reference` implementation, which exports
/// weights: whatever implementation the model runs. Slow, and allocates; but holds the weights of
/// one sequence at a time and of some heads or (causal) rows of it.
class AttentionProfiler {
 public:
  /// At most `weights` numbers at a time, or those of one group of heads, causal: of one row of it.
  explicit AttentionProfiler(std::int64_t weights = std::int64_t{32} << 20)
      : most_weights_(weights) {}

  /// `layer`: whose problem this is. `validity`: on the host, u8 (B,L), nonzero = a real query;
  /// absent: all are. The problem is not packed. Waits for the GPU.
  void add(const Context& ctx, std::string_view layer, const AttentionProblem& problem,
           const Tensor& validity);

  /// Layers in order of appearance.
  std::vector<AttentionProfile> profiles() const;

 private:
  struct Part {  // of a problem
    std::int64_t sequence, head, heads, row, rows;
  };
  struct Sums {
    double first_token = 0, row_sum = 0, sink = 0, entropy = 0;
    std::int64_t rows = 0, rows_with_weight = 0;
  };
  struct Layer {
    std::string name;
    bool has_sink = false;
    std::vector<Sums> heads;
  };

  Layer& layer_of(std::string_view name, const AttentionProblem& problem);
  void add_part(const Context& ctx, Layer& layer, const AttentionProblem& problem, const Part& part,
                const Tensor& validity);
  Tensor room(OwnedTensor& memory, DType dtype, const Shape& shape, Device device) const;

  std::int64_t most_weights_;
  std::vector<Layer> layers_;
  OwnedTensor output_, weights_, sink_mass_, workspace_;
  HostCopy host_weights_, host_sink_mass_;
  std::vector<Sums> rows_;  // of a part
};

}  // namespace quietformer
