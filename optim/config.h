// The `optim` section of a config.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace quietformer {

struct ScheduleConfig {
  std::string type = "cosine";  // constant | linear | cosine
  std::int64_t warmup = 200;    // steps of linear rise to lr
  double final = 0.1;           // what is left of lr at the last step; constant ignores it

  template <class V>
  void visit(V& v) {
    v.field("type", type);
    v.field("warmup", warmup);
    v.field("final", final);
  }
};

/// The numbers of a config that a rule's arithmetic needs, besides those that change; plain, so
/// that kernels hold them.
struct RuleConstants {
  double beta1 = 0, beta2 = 0, eps = 0;
};

/// How each rule reads the keys that not all of them share:
///   adamw  betas of the first and second moment, eps, decoupled decay
///   sgd    betas[0] is the momentum (betas[1] and eps unused), decay added to the gradient
///   lion   betas of the update and of the momentum (eps unused), decoupled decay
struct OptimConfig {
  std::string type = "adamw";
  double lr = 1e-3;
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;  // on parameters with Decay::yes
  double clip = 1.0;          // global gradient norm; 0 = off
  ScheduleConfig schedule;

  template <class V>
  void visit(V& v) {
    v.field("type", type);
    v.field("lr", lr);
    v.field("betas", betas);
    v.field("eps", eps);
    v.field("weight_decay", weight_decay);
    v.field("clip", clip);
    v.section("schedule", schedule);
  }

  RuleConstants constants() const { return {betas[0], betas[1], eps}; }

  /// Throws InputError "optim.KEY: found VALUE, expected ...".
  void validate() const;
};

}  // namespace quietformer
