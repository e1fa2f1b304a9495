// attention/cuda without CUDA: takes the place of the other sources in builds with
// QUIETFORMER_CUDA=OFF.
#include "attention/cuda/flash.h"
#include "attention/cuda/flash_f32.h"
#include "attention/cuda/reference.h"
#include "attention/cuda/rows.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

class Absent final : public AttentionImplementation {
 public:
  explicit Absent(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }
  std::optional<std::string> why_not(const AttentionProblem&, Direction) const override {
    return unavailable();
  }
  std::int64_t workspace_bytes(const Context&, const AttentionProblem&, Direction) const override {
    return 0;
  }
  void forward(const Context&, const AttentionProblem&) const override {
    throw RunError(unavailable());
  }
  void backward(const Context&, const AttentionProblem&) const override {
    throw RunError(unavailable());
  }

 private:
  const std::string_view name_;
};

}  // namespace

const AttentionImplementation& flash_implementation() {
  static const Absent flash("flash");
  return flash;
}
const AttentionImplementation& flash_f32_implementation() {
  return flash_implementation();
}
const AttentionImplementation& reference_implementation() {
  static const Absent reference("reference");
  return reference;
}
void convert_rows(const Context&, const Tensor&, const Tensor&) {
  throw RunError(unavailable());
}

}  // namespace quietformer::cuda
