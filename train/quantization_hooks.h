// The two hooks of quantisation: one counts what products read, one rounds it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/quantization_range.h"
#include "core/buffer.h"
#include "layers/operand_hook.h"

namespace quietformer {

/// Which sites (layers/operand_hook.h) are quantised: the inputs of linear layers always.
struct SiteSelection {
  bool head = false;       // head.input, and the weight of that product
  bool attention = false;  // q, k, v and weights

  bool selected(std::string_view site) const;
  bool wants_weights(std::string_view site) const;  // OperandHook::wants()
};

/// What `site` is multiplied by: "LINEAR.weight" of "LINEAR.input"; empty for attention's.
std::string weight_of(std::string_view site, const std::string& head_weight);

/// Counts the numbers of every selected site, over at most `batches` forward passes.
class Calibrator final : public OperandHook {
 public:
  Calibrator(const SiteSelection& selection, std::int64_t batches)
      : selection_(selection), batches_(batches) {}

  bool wants(std::string_view site) const override { return selection_.wants_weights(site); }
  Tensor replace(const Context& ctx, std::string_view site, const Tensor& value) override;
  bool overwrite(const Context& ctx, std::string_view site, const Tensor& value) override;

  /// In the order in which the model computes.
  std::vector<std::string> sites() const;
  /// Waits for a GPU.
  ValueDistribution distribution(std::string_view site) const;

 private:
  struct Counts {
    std::string site;
    std::int64_t batches = 0;  // seen
    OwnedTensor bins, extremes;
  };

  SiteSelection selection_;
  std::int64_t batches_;
  std::vector<Counts> counts_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// Rounds what is read at sites that have a grid.
class FakeQuantizer final : public OperandHook {
 public:
  explicit FakeQuantizer(const SiteSelection& selection) : selection_(selection) {}

  bool wants(std::string_view site) const override { return selection_.wants_weights(site); }
  Tensor replace(const Context& ctx, std::string_view site, const Tensor& value) override;
  bool overwrite(const Context& ctx, std::string_view site, const Tensor& value) override;

  void set(const std::string& site, const Grid& grid) { grids_[site] = grid; }
  void leave(const std::string& site) { grids_.erase(site); }
  void clear() { grids_.clear(); }

 private:
  SiteSelection selection_;
  std::map<std::string, Grid, std::less<>> grids_;
  OwnedTensor memory_;  // u8: as much as the largest site took so far
};

}  // namespace quietformer
