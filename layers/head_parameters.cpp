#include "layers/head_parameters.h"

#include <algorithm>
#include <cmath>

namespace quietformer {
namespace {

using Kind = HeadParameterConfig::Kind;

void fill(const Tensor& tensor, double value) {
  dispatch_floating(tensor.dtype,
                    [&]<class T>() { std::fill_n(tensor.as<T>(), tensor.count(), T(value)); });
}

}  // namespace

HeadParameters::HeadParameters(ParameterList& parameters, const std::string& path,
                               const ModelConfig& model, const AttentionConfig& attention)
    : heads_(model.heads), dtype_(parameters.dtype()) {
  const double minus_log_context = -std::log(static_cast<double>(model.context));
  const NormalizerInfo& info = find_normalizer(attention.normalizer);
  for (int i = 0; i < static_cast<int>(info.parameters.size()); ++i) {
    const std::string_view name = info.parameters[i].name;
    const bool learned = attention.n.kind == Kind::learned;
    if (name == "n" && !learned) add(i, attention.n, minus_log_context, parameters, path + ".n");
    if (name == "sink_logit" && learned)
      add(i, HeadParameterConfig::learned(std::log(attention.n.init)), minus_log_context,
          parameters, path + ".sink_logit");
    if (name == "sigmoid_bias")
      add(i, attention.sigmoid_bias, minus_log_context, parameters, path + ".sigmoid_bias");
  }
}

void HeadParameters::add(int index, const HeadParameterConfig& config, double minus_log_context,
                         ParameterList& parameters, const std::string& name) {
  Entry& entry = entries_[index];
  if (config.kind == Kind::learned) {
    entry.parameter = parameters.add(name, {heads_}, Init::constant(config.init));
    return;
  }
  entry.constant = OwnedTensor(dtype_, {heads_});
  switch (config.kind) {
    case Kind::fixed:
      return fill(entry.constant, config.values.at(0));
    case Kind::minus_log_context:
      return fill(entry.constant, minus_log_context);
    case Kind::per_head:
      for (std::int64_t h = 0; h < heads_; ++h)
        fill(entry.constant.view().slice(0, h, 1), config.values.at(h));
      return;
    case Kind::scheduled:
      entry.scheduled = config;
      entry.follows_schedule = true;
      return set_schedule_step(0);
    case Kind::learned:
      return;  // handled above
  }
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
      problem.head_parameters[i] =
          memory == Memory::slots ? entry.parameter.value.get() : Tensor(nullptr, dtype_, {heads_});
  }
}

void HeadParameters::set_gradients(AttentionProblem& problem, Memory memory) const {
  for (int i = 0; i < kMaxHeadParameters; ++i)
    if (entries_[i].gradient)
      problem.d_head_parameters[i] =
          memory == Memory::slots ? entries_[i].gradient.get() : Tensor(nullptr, dtype_, {heads_});
}

void HeadParameters::accumulate_gradients() const {
  for (const Entry& entry : entries_) {
    if (!entry.gradient) continue;
    const Tensor sum = entry.parameter.grad, add = entry.gradient;
    dispatch_floating(dtype_, [&]<class T>() {
      for (std::int64_t h = 0; h < heads_; ++h) sum.as<T>()[h] += add.as<T>()[h];
    });
  }
}

void HeadParameters::set_schedule_step(std::int64_t step) {
  for (const Entry& entry : entries_) {
    if (!entry.follows_schedule) continue;
    const HeadParameterConfig& line = entry.scheduled;
    const double part = std::min(1.0, static_cast<double>(step) / static_cast<double>(line.steps));
    fill(entry.constant, line.from + (line.to - line.from) * part);
  }
}

}  // namespace quietformer
