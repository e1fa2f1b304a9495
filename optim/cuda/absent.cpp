// optim/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "core/cuda/memory.h"
#include "optim/cuda/operations.h"

namespace quietformer::cuda {

void optimizer_step(const Context&, const OptimConfig&, const StepTensors&, const StepNumbers&) {
  throw RunError(unavailable());
}
void sum_of_squares(const Context&, const Tensor&, const Tensor&, const Tensor&, double) {
  throw RunError(unavailable());
}
void begin_step(const Context&, const Tensor&, double, double) {
  throw RunError(unavailable());
}

}  // namespace quietformer::cuda
