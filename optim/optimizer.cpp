#include "optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "core/cuda/memory.h"
#include "core/parallel.h"
#include "optim/cuda/operations.h"
#include "optim/rules.h"

namespace quietformer {
namespace {

// Elements per chunk: 4 arrays of 16 KiB in fp32, inside a core's second-level cache.
constexpr std::int64_t kChunk = 1 << 12;

// Neighbouring parameters that the pass treats alike, as a range of the flat tensors. Padding
// between tensors belongs to no range.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  Decay decay = Decay::no;
};

std::vector<Range> ranges_of(const ParameterList& parameters) {
  const char* base =
      static_cast<const char*>(parameters.masters().flat(parameters.master_dtype()).data);
  std::vector<Range> ranges;
  for (const Parameter& p : parameters.all()) {
    const Tensor value = p.master;
    const std::int64_t begin = (static_cast<const char*>(value.data) - base) / size_of(value.dtype);
    if (!ranges.empty() && ranges.back().end == begin && ranges.back().decay == p.decay) {
      ranges.back().end += value.count();
    } else {
      ranges.push_back({begin, begin + value.count(), p.decay});
    }
  }
  return ranges;
}

// The ranges for a GPU (cuda::StepTensors): pieces that one block each updates.
OwnedTensor pieces_of(const std::vector<Range>& ranges, Device device) {
  std::vector<std::int64_t> pieces;
  for (const Range& range : ranges)
    for (std::int64_t begin = range.begin; begin < range.end; begin += kChunk)
      pieces.insert(pieces.end(), {begin, std::min(begin + kChunk, range.end),
                                   std::int64_t{range.decay == Decay::yes}});
  const Shape shape{static_cast<std::int64_t>(pieces.size() / 3), 3};
  OwnedTensor there(DType::i64, shape, device);
  cuda::copy(there, Tensor(pieces.data(), DType::i64, shape));
  return there;
}

// The flat tensors as typed pointers: value, gradient and K states.
template <class T, std::size_t K>
struct Arrays {
  T* value;
  const T* grad;
  std::array<T*, K> state;
};

template <class Update, class T, std::size_t K, std::size_t... S>
void apply(const Update& update, const Arrays<T, K>& arrays, std::int64_t begin, std::int64_t end,
           T grad_scale, std::index_sequence<S...>) {
  T* const value = arrays.value;
  const T* const grad = arrays.grad;
  const std::array<T*, K> state = arrays.state;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) update(value[i], grad[i] * grad_scale, state[S][i]...);
}

template <class Rule>
class RuleOptimizer final : public Optimizer {
 public:
  RuleOptimizer(const OptimConfig& config, const ParameterList& parameters)
      : config_(config), parameters_(parameters), ranges_(ranges_of(parameters)) {
    for (std::string_view kind : Rule::kState) {
      // The same names, types and shapes in the same order give the layout of the parameters.
      const Arena& masters = parameters.masters();
      Arena& arena = arenas_.emplace_back(fmt::format("optimizer {}", kind), parameters.device(),
                                          masters.alignment());
      std::vector<Slot> slots;
      for (const Parameter& p : parameters.all())
        slots.push_back(
            arena.declare(p.name, parameters.master_dtype(), p.master.get().shape, p.padding));
      arena.commit();
      QF_EXPECTS(arena.bytes() == masters.bytes());
      for (std::size_t i = 0; i < slots.size(); ++i)
        state_.push_back(
            {fmt::format("optimizer/{}/{}", kind, parameters.all()[i].name), slots[i].get()});
    }
    if (parameters.device().type == DeviceType::cuda) {
      pieces_ = pieces_of(ranges_, parameters.device());
      update_ = OwnedTensor(DType::u8, {cuda::kUpdateBytes}, parameters.device());
    }
  }

  void step(const Context& ctx, double lr, std::int64_t step, double grad_scale) override {
    QF_EXPECTS(step >= 0 && ctx.device == parameters_.device());
    if (ctx.device.type == DeviceType::cuda) {
      cuda::StepNumbers numbers;
      numbers.lr = lr, numbers.step = static_cast<double>(step), numbers.grad_scale = grad_scale;
      return cuda::optimizer_step(ctx, config_, tensors(), numbers);
    }
    dispatch_floating(parameters_.dtype(),
                      [&]<class T>() { run<T>(ctx, lr, step, static_cast<T>(grad_scale)); });
  }

  void step(const Context& ctx, StepState& state) override {
    QF_EXPECTS(ctx.device.type == DeviceType::cuda && ctx.device == parameters_.device());
    cuda::StepNumbers numbers;
    numbers.state = state.tensor(), numbers.loss_scale = state.loss_scale();
    numbers.scaling = state.scaling();
    cuda::optimizer_step(ctx, config_, tensors(), numbers);
  }

 private:
  static constexpr std::size_t kStates = Rule::kState.size();
  static_assert(kStates <= cuda::kMaxStates);

  cuda::StepTensors tensors() const {
    const DType dtype = parameters_.master_dtype();
    cuda::StepTensors tensors;
    tensors.masters = parameters_.masters().flat(dtype);
    tensors.grads = parameters_.grads().flat(dtype);
    if (parameters_.dtype() != dtype)
      tensors.values = parameters_.values().flat(parameters_.dtype());
    for (std::size_t s = 0; s < kStates; ++s) tensors.state[s] = arenas_[s].flat(dtype);
    tensors.pieces = pieces_, tensors.update = update_;
    return tensors;
  }

  template <class T>
  void run(const Context& ctx, double lr, std::int64_t step, T grad_scale) {
    const DType dtype = parameters_.dtype();
    const Tensor values = parameters_.values().flat(dtype);
    Arrays<T, kStates> arrays{values.as<T>(), parameters_.grads().flat(dtype).as<T>(), {}};
    for (std::size_t s = 0; s < kStates; ++s) arrays.state[s] = arenas_[s].flat(dtype).as<T>();
    using Update = typename Rule::template Update<T>;
    const auto number = static_cast<double>(step);
    const RuleConstants constants = config_.constants();
    const Update decayed(constants, lr, number, config_.weight_decay),
        plain(constants, lr, number, 0);
    parallel_for(ctx, values.count(), kChunk, [&](std::int64_t begin, std::int64_t end) {
      auto range = std::partition_point(ranges_.begin(), ranges_.end(),
                                        [begin](const Range& r) { return r.end <= begin; });
      for (; range != ranges_.end() && range->begin < end; ++range)
        apply(range->decay == Decay::yes ? decayed : plain, arrays, std::max(begin, range->begin),
              std::min(end, range->end), grad_scale, std::make_index_sequence<kStates>());
    });
  }

  OptimConfig config_;
  const ParameterList& parameters_;
  std::vector<Range> ranges_;
  OwnedTensor pieces_, update_;  // on a GPU
  std::deque<Arena> arenas_;     // one per kind of state; an arena must not move
};

}  // namespace

std::int64_t Optimizer::state_bytes() const {
  std::int64_t bytes = 0;
  for (const StateTensor& s : state_) bytes += s.tensor.bytes();
  return bytes;
}

const std::vector<std::string_view>& optimizer_rules() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for_each_rule([&]<class Rule>(std::string_view name) { list.push_back(name); });
    return list;
  }();
  return names;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimConfig& config,
                                          const ParameterList& parameters) {
  std::unique_ptr<Optimizer> optimizer;
  for_each_rule([&]<class Rule>(std::string_view name) {
    if (name == config.type) optimizer = std::make_unique<RuleOptimizer<Rule>>(config, parameters);
  });
  QF_EXPECTS(optimizer != nullptr);
  return optimizer;
}

}  // namespace quietformer
