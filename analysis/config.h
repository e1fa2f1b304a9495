// The `analysis` section of a config.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quietformer {

struct AnalysisConfig {
  std::int64_t every = 50;  // statistics on every so many steps; 0 = off
  bool per_head = false;    // also per head where the site has heads
  /// Patterns of probe names (analysis/glob.h).
  std::vector<std::string> sites{"embedding", "blocks.*.attention.context",
                                 "blocks.*.attention.output", "blocks.*.mlp.output",
                                 "blocks.*.output"};

  template <class V>
  void visit(V& v) {
    v.field("every", every);
    v.field("per_head", per_head);
    v.field("sites", sites);
  }

  /// Throws InputError "analysis.KEY: found VALUE, expected ...".
  void validate() const;
};

}  // namespace quietformer
