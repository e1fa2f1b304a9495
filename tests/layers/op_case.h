// One description per operation, run as: fp64 gradient check, f32 against f64, bitwise independence
// of the number of threads, guards around everything written, and a GPU against the CPU.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer::test {

using Tensors = std::vector<Tensor>;

/// What a gradient does to its memory.
enum class Writes { overwrites, accumulates };

struct OpInput {
  std::string name;
  Shape shape;
  Writes gradient = Writes::overwrites;  // what accumulates has the accumulation type
  double mean = 0;
  bool wide = false;  // the input has the accumulation type too
};

struct OpCase {
  std::string name;
  std::vector<OpInput> inputs;
  Shape output;
  Mode mode = Mode::evaluate;
  int roundings = 1;  // to the storage type between an input and a result
  /// y from the inputs.
  /// Tensors are on ctx.device; what else it needs it makes there.
  std::function<void(const Context&, const Tensor& y, const Tensors& in)> forward = {};
  /// Gradients of all inputs from that of y. Saved state is made anew by calling forward's parts.
  std::function<void(const Context&, const Tensors& d_in, const Tensor& dy, const Tensors& in)>
      backward = {};
};

inline std::ostream& operator<<(std::ostream& out, const OpCase& c) {
  return out << c.name;
}

/// Small for gradient checks; large enough for several chunks, and not a multiple of anything, for
/// the rest.
enum class OpSize { small, large };

/// Every operation of layers/.
std::vector<OpCase> op_cases(OpSize size);

}  // namespace quietformer::test
