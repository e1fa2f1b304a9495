#include "attention/cuda/hopper/forward.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "attention/cuda/instances.h"
#include "attention/policies.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

struct Entry {
  std::string_view score, normalizer;
  DType dtype;
  int dim;
  HopperForwardFunction forward;
};

#define QF_INSTANCE(S, N, T, dtype, dim) \
  Entry{S::name, N::name, DType::dtype, dim, HopperForwardInstance<S, N, T, dim>::function()},
const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {QUIETFORMER_HOPPER_INSTANCES(QF_INSTANCE)};
  return all;
}
#undef QF_INSTANCE

const Gpu* gpu_at(Device device) {
  // Every call of attention asks this; the runtime takes long to answer.
  static const std::vector<Gpu> all = gpus();
  const auto at = std::find_if(all.begin(), all.end(),
                               [&](const Gpu& gpu) { return gpu.index == device.index; });
  return at == all.end() ? nullptr : &*at;
}

/// Tensor maps have no stride 0.
bool apart(const RowTensor& x, const FlashForwardCall& call) {
  return x.row > 0 && (x.head > 0 || call.heads == 1) && (x.batch > 0 || call.batch == 1);
}

bool portable_wanted() {
  const char* const value = std::getenv("QUIETFORMER_PORTABLE_KERNELS");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace

HopperForwardFunction hopper_forward(const Context& ctx, std::string_view score,
                                     std::string_view normalizer, DType dtype,
                                     const FlashForwardCall& call) {
  const Gpu* const gpu = gpu_at(ctx.device);
  if (gpu == nullptr || gpu->major != 9 || gpu->minor != 0 || portable_wanted()) return nullptr;
  if (call.options.general() || call.negative || call.total_attention != nullptr || call.keys == 0)
    return nullptr;
  for (const RowTensor* x : {&call.q[0], &call.k[0], &call.q[1], &call.k[1], &call.v, &call.o})
    if (x->data != nullptr && !(x->aligned && apart(*x, call))) return nullptr;
  const int dim = padded_dim(std::max(call.dim, call.value_dim));
  for (const Entry& entry : entries())
    if (entry.score == score && entry.normalizer == normalizer && entry.dtype == dtype &&
        entry.dim == dim) {
      const bool sums_alone =
          call.row_sum != nullptr && !find_normalizer(normalizer).row_normalised;
      return sums_alone ? nullptr : entry.forward;
    }
  return nullptr;
}

int multiprocessors(Device device) {
  const Gpu* const gpu = gpu_at(device);
  QF_EXPECTS(gpu != nullptr);
  return gpu->multiprocessors;
}

}  // namespace quietformer::cuda
