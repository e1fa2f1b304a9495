// optim/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "core/cuda/memory.h"
#include "optim/cuda/operations.h"

namespace quietformer::cuda {

void optimizer_step(const Context&, const OptimConfig&, const StepTensors&, double, std::int64_t,
                    double) {
  throw RunError(unavailable());
}
void sum_of_squares(const Context&, const Tensor&, const Tensor&) {
  throw RunError(unavailable());
}

}  // namespace quietformer::cuda
