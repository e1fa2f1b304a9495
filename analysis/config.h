// The `analysis` section of a config.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {

struct AnalysisConfig {
  std::int64_t every = 50;           // statistics on every so many steps; 0 = off
  bool per_head = false;             // also per head where the site has heads
  std::int64_t final_sequences = 8;  // looked at closely at the end of a run; 0 = none
  /// Patterns of probe names (analysis/glob.h).
  std::vector<std::string> sites{"embedding", "blocks.*.attention.context",
                                 "blocks.*.attention.output", "blocks.*.mlp.output",
                                 "blocks.*.output"};

  template <class V>
  void visit(V& v) {
    v.field("every", every);
    v.field("per_head", per_head);
    v.field("final_sequences", final_sequences);
    v.field("sites", sites);
  }

  /// Throws InputError "analysis.KEY: found VALUE, expected ...".
  void validate() const;

  /// Whether one of `sites` matches the name of a probe.
  bool selects(std::string_view name) const;
};

}  // namespace quietformer
