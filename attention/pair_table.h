// Finds the compiled instance of a (score, normaliser) pair that a problem names.
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

#include "attention/policies.h"
#include "attention/registry.h"

namespace quietformer {

/// Every pair of an implementation; Pair<S, N> has static functions forward and backward.
template <template <class, class> class Pair>
class PairTable {
 public:
  struct Entry {
    std::string_view score, normalizer;
    void (*forward)(const Context&, const AttentionProblem&);
    void (*backward)(const Context&, const AttentionProblem&);
  };

  static const Entry& find(const AttentionProblem& problem) {
    const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& e) {
      return e.score == name_of(problem.score) && e.normalizer == problem.normalizer;
    });
    QF_EXPECTS(entry != std::end(kEntries));  // check() knows the same lists
    return *entry;
  }

 private:
#define QF_PAIR(S, N) Entry{S::name, N::name, &Pair<S, N>::forward, &Pair<S, N>::backward},
  static constexpr Entry kEntries[] = {QUIETFORMER_ATTENTION_PAIRS(QF_PAIR)};
#undef QF_PAIR
};

}  // namespace quietformer
