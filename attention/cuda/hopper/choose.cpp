// Which calls the kernels for compute capability 9.0 take.
#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "attention/cuda/hopper/backward.h"
#include "attention/cuda/hopper/forward.h"
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
  HopperBackwardFunction backward;
};

#define QF_INSTANCE(S, N, T, dtype, dim)                 \
  Entry{S::name,                                         \
        N::name,                                         \
        DType::dtype,                                    \
        dim,                                             \
        HopperForwardInstance<S, N, T, dim>::function(), \
        HopperBackwardInstance<S, N, T, dim>::function()},
const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {QUIETFORMER_HOPPER_INSTANCES(QF_INSTANCE)};
  return all;
}
#undef QF_INSTANCE

/// Null when the build left it out.
const Entry* find(std::string_view score, std::string_view normalizer, DType dtype, int dim) {
  const auto at = std::find_if(entries().begin(), entries().end(), [&](const Entry& e) {
    return e.score == score && e.normalizer == normalizer && e.dtype == dtype && e.dim == dim;
  });
  return at == entries().end() ? nullptr : &*at;
}

const Gpu* gpu_at(Device device) {
  // Every call of attention asks this; the runtime takes long to answer.
  static const std::vector<Gpu> all = gpus();
  const auto at = std::find_if(all.begin(), all.end(),
                               [&](const Gpu& gpu) { return gpu.index == device.index; });
  return at == all.end() ? nullptr : &*at;
}

/// As TMA takes it: whole chunks of 16 bytes, no stride 0.
bool fit(std::initializer_list<const RowTensor*> tensors, int heads, int batch) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const RowTensor* x) {
    return x->data == nullptr || (x->aligned && x->row > 0 && (x->head > 0 || heads == 1) &&
                                  (x->batch > 0 || batch == 1));
  });
}

bool portable_wanted() {
  const char* const value = std::getenv("QUIETFORMER_PORTABLE_KERNELS");
  return value != nullptr && std::string_view(value) == "1";
}

bool available(const Context& ctx) {
  const Gpu* const gpu = gpu_at(ctx.device);
  return gpu != nullptr && gpu->major == 9 && gpu->minor == 0 && !portable_wanted();
}

}  // namespace

HopperForwardFunction hopper_forward(const Context& ctx, std::string_view score,
                                     std::string_view normalizer, DType dtype,
                                     const FlashForwardCall& call) {
  if (!available(ctx)) return nullptr;
  if (call.options.general() || call.negative || call.total_attention != nullptr || call.keys == 0)
    return nullptr;
  if (!fit({&call.q[0], &call.q[1], &call.o}, call.heads, call.batch) ||
      !fit({&call.k[0], &call.k[1], &call.v}, call.heads / call.group, call.batch))
    return nullptr;
  if (call.row_sum != nullptr && !find_normalizer(normalizer).row_normalised) return nullptr;
  const Entry* const entry =
      find(score, normalizer, dtype, padded_dim(std::max(call.dim, call.value_dim)));
  return entry == nullptr ? nullptr : entry->forward;
}

HopperBackwardFunction hopper_backward(const Context& ctx, std::string_view score,
                                       std::string_view normalizer, DType dtype,
                                       const FlashBackwardCall& call) {
  if (!available(ctx)) return nullptr;
  if (call.options.general() || call.scale < 0 || call.queries == 0 || call.keys == 0)
    return nullptr;
  if (!fit({&call.q[0], &call.q[1], &call.d_out}, call.heads, call.batch) ||
      !fit({&call.k[0], &call.k[1], &call.v}, call.heads / call.group, call.batch))
    return nullptr;
  const Entry* const entry = find(score, normalizer, dtype, call.padded());
  return entry == nullptr ? nullptr : entry->backward;
}

int multiprocessors(Device device) {
  const Gpu* const gpu = gpu_at(device);
  QF_EXPECTS(gpu != nullptr);
  return gpu->multiprocessors;
}

}  // namespace quietformer::cuda
