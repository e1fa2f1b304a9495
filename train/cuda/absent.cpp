// train/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "train/cuda/operations.h"

namespace quietformer::cuda {

std::string unusable(const Gpu&) {
  return unavailable();
}
void add_scaled(const Context&, const Tensor&, const Tensor&, double) {
  throw RunError(unavailable());
}
std::int64_t place_bytes(std::int64_t) {
  throw RunError(unavailable());
}
void place_streams(const Context&, const Tensor&) {
  throw RunError(unavailable());
}
void hold_diverged(const Context&, const Tensor&, const Tensor&) {
  throw RunError(unavailable());
}
void mark_valid(const Context&, const Tensor&, const Tensor&) {
  throw RunError(unavailable());
}

}  // namespace quietformer::cuda
