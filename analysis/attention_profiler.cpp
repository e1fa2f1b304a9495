#include "analysis/attention_profiler.h"

#include <algorithm>
#include <cmath>

#include "core/math.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

/// The part of a dimension, unless it is broadcast or the tensor absent.
Tensor cut(const Tensor& tensor, int dim, std::int64_t begin, std::int64_t size) {
  if (tensor.shape.rank == 0 || tensor.shape[dim] == 1) return tensor;
  return tensor.slice(dim, begin, size);
}

/// Query heads [head, head + heads), whole groups, and rows [row, row + rows) of one sequence. Keys
/// behind the last row are left out, which keeps rows at their positions; so either the problem is
/// causal or all rows are taken.
AttentionProblem cut_problem(const AttentionProblem& whole, std::int64_t sequence,
                             std::int64_t head, std::int64_t heads, std::int64_t row,
                             std::int64_t rows) {
  const std::int64_t group = whole.heads() / whole.kv_heads();
  const std::int64_t keys = whole.k.shape[2] - whole.q.shape[2] + row + rows;
  AttentionProblem p = whole;
  p.o = p.row_state = p.lse = p.lse_scores = p.sink_mass = p.row_sum = p.total_attention = {};
  p.dropout = {};
  for (Tensor* t : {&p.q, &p.q2})
    *t = cut(cut(cut(*t, 0, sequence, 1), 1, head, heads), 2, row, rows);
  for (Tensor* t : {&p.k, &p.k2, &p.v})
    *t = cut(cut(cut(*t, 0, sequence, 1), 1, head / group, heads / group), 2, 0, keys);
  for (Tensor* t : {&p.mask, &p.bias})
    *t = cut(cut(cut(cut(*t, 0, sequence, 1), 1, head, heads), 2, row, rows), 3, 0, keys);
  p.key_padding = cut(cut(p.key_padding, 0, sequence, 1), 1, 0, keys);
  if (p.alibi_slopes.shape.rank == 2) p.alibi_slopes = cut(p.alibi_slopes, 0, sequence, 1);
  p.alibi_slopes = cut(p.alibi_slopes, p.alibi_slopes.shape.rank - 1, head, heads);
  for (Tensor& parameter : p.head_parameters) parameter = cut(parameter, 0, head, heads);
  return p;
}

}  // namespace

AttentionProfiler::Layer& AttentionProfiler::layer_of(std::string_view name,
                                                      const AttentionProblem& problem) {
  auto found = std::find_if(layers_.begin(), layers_.end(),
                            [name](const Layer& layer) { return layer.name == name; });
  if (found == layers_.end()) {
    Layer layer{std::string(name), find_normalizer(problem.normalizer).row_normalised, {}};
    layer.heads.resize(static_cast<std::size_t>(problem.heads()));
    found = layers_.insert(found, std::move(layer));
  }
  QF_EXPECTS(found->heads.size() == static_cast<std::size_t>(problem.heads()));
  return *found;
}

/// Memory that grows.
Tensor AttentionProfiler::room(OwnedTensor& memory, DType dtype, const Shape& shape,
                               Device device) const {
  const std::int64_t bytes = shape.count() * size_of(dtype);
  if (!memory.view() || memory.view().count() < bytes || !(memory.view().device == device))
    memory = OwnedTensor(DType::u8, {bytes}, device);
  return Tensor(memory.view().data, dtype, shape, device);
}

void AttentionProfiler::add(const Context& ctx, std::string_view layer,
                            const AttentionProblem& problem, const Tensor& validity) {
  QF_EXPECTS(!problem.packed());
  const std::int64_t queries = problem.q.shape[2], keys = problem.k.shape[2];
  const std::int64_t group = problem.heads() / problem.kv_heads(), size = group * queries * keys;
  QF_EXPECTS(!validity || validity.shape == (Shape{problem.q.shape[0], queries}));
  // Rows may come one after the other where each sees no key behind the last of them.
  const bool by_rows = problem.causal && keys >= queries && size > most_weights_;
  const std::int64_t rows =
      by_rows ? std::clamp<std::int64_t>(most_weights_ / (group * keys), 1, queries) : queries;
  const std::int64_t heads =
      group * std::clamp<std::int64_t>(most_weights_ / size, 1, problem.kv_heads());
  Layer& sums = layer_of(layer, problem);
  for (std::int64_t b = 0; b < problem.q.shape[0]; ++b)
    for (std::int64_t head = 0; head < problem.heads(); head += heads)
      for (std::int64_t row = 0; row < queries; row += rows)
        add_part(
            ctx, sums, problem,
            {b, head, std::min(heads, problem.heads() - head), row, std::min(rows, queries - row)},
            validity);
}

void AttentionProfiler::add_part(const Context& given, Layer& layer,
                                 const AttentionProblem& problem, const Part& part,
                                 const Tensor& validity) {
  Context ctx = given;
  ctx.probes = nullptr;
  AttentionProblem p =
      cut_problem(problem, part.sequence, part.head, part.heads, part.row, part.rows);
  const Device device = p.q.device;
  const std::int64_t keys = p.k.shape[2];
  const DType sums_dtype = p.q.dtype == DType::f64 ? DType::f64 : DType::f32;
  p.o = room(output_, p.q.dtype, {1, part.heads, part.rows, p.v.shape[3]}, device);
  p.weights = room(weights_, sums_dtype, {1, part.heads, part.rows, keys}, device);
  if (layer.has_sink)
    p.sink_mass = room(sink_mass_, sums_dtype, {1, part.heads, part.rows}, device);
  const AttentionImplementation& reference = choose("reference", p, Direction::forward);
  p.workspace =
      room(workspace_, DType::u8, {reference.workspace_bytes(ctx, p, Direction::forward)}, device);
  reference.forward(ctx, p);
  const Tensor weights = host_weights_.of(ctx, p.weights);
  const Tensor sink = layer.has_sink ? host_sink_mass_.of(ctx, p.sink_mass) : Tensor();
  const std::uint8_t* valid =
      validity ? validity.as<std::uint8_t>() + part.sequence * validity.shape[1] + part.row
               : nullptr;

  rows_.resize(static_cast<std::size_t>(part.heads * part.rows));
  dispatch_floating(sums_dtype, [&]<class T>() {
    parallel_for(ctx, part.heads * part.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        Sums& row = rows_[static_cast<std::size_t>(r)] = {};
        if (valid != nullptr && valid[r % part.rows] == 0) continue;
        const T* weight = weights.as<T>() + r * keys;
        double total = 0, logs = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          const double w = weight[j];
          total += w;
          if (w != 0) logs += w * std::log(w);
        }
        row.rows = 1;
        row.first_token = weight[0];
        row.row_sum = total;
        if (sink) row.sink = sink.as<T>()[r];
        if (total == 0) continue;
        row.entropy = std::log(total) - logs / total;
        row.rows_with_weight = 1;
      }
    });
  });
  for (std::int64_t r = 0; r < part.heads * part.rows; ++r) {
    const Sums& row = rows_[static_cast<std::size_t>(r)];
    Sums& head = layer.heads[static_cast<std::size_t>(part.head + r / part.rows)];
    head.first_token += row.first_token;
    head.row_sum += row.row_sum;
    head.sink += row.sink;
    head.entropy += row.entropy;
    head.rows += row.rows;
    head.rows_with_weight += row.rows_with_weight;
  }
}

std::vector<AttentionProfile> AttentionProfiler::profiles() const {
  const auto mean = [](double sum, std::int64_t count) {
    return count > 0 ? sum / static_cast<double>(count) : math::kNaN<double>;
  };
  std::vector<AttentionProfile> profiles;
  for (const Layer& layer : layers_) {
    AttentionProfile profile;
    profile.layer = layer.name;
    for (const Sums& head : layer.heads) {
      profile.first_token_mass.push_back(mean(head.first_token, head.rows));
      profile.row_sum.push_back(mean(head.row_sum, head.rows));
      if (layer.has_sink) profile.sink_mass.push_back(mean(head.sink, head.rows));
      profile.entropy.push_back(mean(head.entropy, head.rows_with_weight));
    }
    profiles.push_back(std::move(profile));
  }
  return profiles;
}

}  // namespace quietformer
