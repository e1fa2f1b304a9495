#include "layers/head_parameters.h"

#include <algorithm>
#include <cmath>

#include "core/cuda/memory.h"
#include "layers/residual.h"

namespace quietformer {
namespace {

using Kind = HeadParameterConfig::Kind;

void fill(const Context& ctx, const Tensor& tensor, double value) {
  if (ctx.device.type == DeviceType::cuda) return cuda::fill(ctx, tensor, value);
  dispatch_floating(tensor.dtype,
                    [&]<class T>() { std::fill_n(tensor.as<T>(), tensor.count(), T(value)); });
}

}  // namespace

HeadParameters::HeadParameters(ParameterList& parameters, const std::string& path,
                               const ModelConfig& model, const AttentionConfig& attention)
    : heads_(model.heads), dtype_(parameters.master_dtype()), device_(parameters.device()) {
  const auto context = static_cast<double>(model.context);
  const NormalizerInfo& info = find_normalizer(attention.normalizer);
  for (int i = 0; i < static_cast<int>(info.parameters.size()); ++i) {
    const std::string_view name = info.parameters[i].name;
    const bool learned = attention.n.kind == Kind::learned;
    if (name == "n" && !learned) add(i, attention.n, context, parameters, path + ".n");
    if (name == "sink_logit" && learned)
      add(i, HeadParameterConfig::learned(std::log(attention.n.init)), context, parameters,
          path + ".sink_logit");
    if (name == "sigmoid_bias")
      add(i, attention.sigmoid_bias, context, parameters, path + ".sigmoid_bias");
    if (name == "gamma") add(i, attention.gamma, context, parameters, path + ".gamma");
    if (name == "zeta") add(i, attention.zeta, context, parameters, path + ".zeta");
  }
}

void HeadParameters::add(int index, const HeadParameterConfig& config, double context,
                         ParameterList& parameters, const std::string& name) {
  Entry& entry = entries_[index];
  if (config.kind == Kind::learned) {
    entry.parameter = parameters.add(name, {heads_}, Init::constant(config.init));
    return;
  }
  const Context host;
  OwnedTensor constant(dtype_, {heads_});
  switch (config.kind) {
    case Kind::fixed:
      fill(host, constant, config.values.at(0));
      break;
    case Kind::minus_log_context:
      fill(host, constant, -std::log(context));
      break;
    case Kind::over_context:
      fill(host, constant, config.values.at(0) / context);
      break;
    case Kind::per_head:
      for (std::int64_t h = 0; h < heads_; ++h)
        fill(host, constant.view().slice(0, h, 1), config.values.at(h));
      break;
    case Kind::scheduled:
      entry.scheduled = config;
      entry.follows_schedule = true;
      fill(host, constant, config.from);
      break;
    case Kind::learned:
      return;  // handled above
  }
  entry.constant = to_device(std::move(constant), device_);
}

void HeadParameters::declare(Arena& arena, Purpose purpose) {
  if (purpose == Purpose::inference) return;
  for (Entry& entry : entries_)
    if (entry.parameter.value)
      entry.gradient = arena.declare_shared(
          "d_" + entry.parameter.name.substr(entry.parameter.name.rfind('.') + 1), dtype_,
          {heads_});
}

void HeadParameters::set(AttentionProblem& problem, Memory memory) const {
  for (int i = 0; i < kMaxHeadParameters; ++i) {
    const Entry& entry = entries_[i];
    if (!entry.parameter.value)
      problem.head_parameters[i] = entry.constant.view();
    else
      problem.head_parameters[i] = memory == Memory::slots
                                       ? entry.parameter.master.get()
                                       : Tensor(nullptr, dtype_, {heads_}, device_);
  }
}

void HeadParameters::set_gradients(AttentionProblem& problem, Memory memory) const {
  for (int i = 0; i < kMaxHeadParameters; ++i)
    if (entries_[i].gradient)
      problem.d_head_parameters[i] = memory == Memory::slots
                                         ? entries_[i].gradient.get()
                                         : Tensor(nullptr, dtype_, {heads_}, device_);
}

void HeadParameters::accumulate_gradients(const Context& ctx) const {
  for (const Entry& entry : entries_) {
    if (!entry.gradient) continue;
    const Tensor sum = entry.parameter.grad;
    residual_forward(ctx, sum, sum, entry.gradient, 1, {});
  }
}

void HeadParameters::set_schedule_step(std::int64_t step) {
  Context ctx;
  ctx.device = device_;
  if (device_.type == DeviceType::cuda) cuda::synchronize(device_);
  set_schedule_step(ctx, step);
  if (device_.type == DeviceType::cuda) cuda::synchronize(device_);
}

void HeadParameters::set_schedule_step(const Context& ctx, std::int64_t step) {
  for (const Entry& entry : entries_) {
    if (!entry.follows_schedule) continue;
    const HeadParameterConfig& line = entry.scheduled;
    const double part = std::min(1.0, static_cast<double>(step) / static_cast<double>(line.steps));
    fill(ctx, entry.constant, line.from + (line.to - line.from) * part);
  }
}

}  // namespace quietformer
