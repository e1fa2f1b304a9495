#include "layers/layer.h"

namespace quietformer {

Slot declare_saved(Arena& arena, Purpose purpose, const std::string& path, const std::string& name,
                   DType dtype, const Shape& shape) {
  if (purpose == Purpose::training) return arena.declare(path + "." + name, dtype, shape);
  return arena.declare_shared(name, dtype, shape);
}

}  // namespace quietformer
