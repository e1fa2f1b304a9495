#include "layers/self_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "layers/initialisation.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

constexpr double kL2Epsilon = 1e-12;  // as in attention/l2norm.h

OwnedTensor constant_positions(std::int64_t count, std::int64_t value, Device device) {
  OwnedTensor positions(DType::i32, {count});
  std::fill_n(positions.as<std::int32_t>(), count, static_cast<std::int32_t>(value));
  return to_device(std::move(positions), device);
}

OwnedTensor counted_positions(std::int64_t count, Device device) {
  OwnedTensor positions(DType::i32, {count});
  std::iota(positions.as<std::int32_t>(), positions.as<std::int32_t>() + count, 0);
  return to_device(std::move(positions), device);
}

/// Heads [first, first + heads) of packed rows (B, T, W): (B,T,H,D).
Tensor heads_of(const Tensor& packed, std::int64_t first, std::int64_t heads, std::int64_t dim) {
  Tensor view;
  view.data = static_cast<char*>(packed.data) + first * dim * size_of(packed.dtype);
  if (packed.data == nullptr) view.data = nullptr;
  view.dtype = packed.dtype;
  view.device = packed.device;
  view.shape = {packed.shape[0], packed.shape[1], heads, dim};
  view.stride = {packed.stride[0], packed.stride[1], dim, 1, 0};
  return view;
}

/// (B,T,H,D) as attention wants it, (B,H,T,D).
Tensor by_head(const Tensor& t) {
  return t.transpose(1, 2);
}

/// (B,T,H,D) as norms want it, (B T, H, D): b and t step evenly through packed rows.
Tensor by_row(const Tensor& t) {
  Tensor view = t;
  view.shape = {t.shape[0] * t.shape[1], t.shape[2], t.shape[3]};
  view.stride = {t.stride[1], t.stride[2], 1, 0, 0};
  return view;
}

/// The positions of tokens 0 .. tokens - 1.
Tensor first(const OwnedTensor& positions, std::int64_t tokens) {
  return positions.view().slice(0, 0, tokens);
}

double scale_of(const ModelConfig& model, const AttentionConfig& attention, Score score) {
  if (attention.scale) return *attention.scale;
  const bool unit_vectors = find_qk_norm(model.qk_norm) == NormKind::l2;
  return default_scale(unit_vectors ? Score::cosine : score, model.head_dim());
}

std::optional<Norm> make_norm(ParameterList& parameters, const std::string& path,
                              const ModelConfig& model) {
  const std::optional<NormKind> kind = find_qk_norm(model.qk_norm);
  if (!kind) return std::nullopt;
  return Norm(parameters, path, *kind, model.head_dim(),
              *kind == NormKind::l2 ? kL2Epsilon : model.norm_eps);
}

std::optional<AttentionGate> make_gate(ParameterList& parameters, const std::string& path,
                                       const ModelConfig& model, const AttentionConfig& attention) {
  if (find_gate(attention.gate) == GateKind::none) return std::nullopt;
  return AttentionGate(parameters, path, model.heads, model.head_dim(),
                       Init::normal(model.init_std), attention.gate_bias);
}

Init qkv_init(const ModelConfig& model) {
  const Init init = projection_init(model, Projection::inner, model.dim, model.dim, 1.0);
  if (!uses_deepnet(model)) return init;
  const std::int64_t value_row = (model.heads + model.kv_heads) * model.head_dim();
  return init.with_tail(value_row * model.dim, deepnet_beta(model));
}

}  // namespace

Rotary::Rotary(DType dtype, const ModelConfig& model, const AttentionConfig& attention,
               Device device)
    : table(dtype, model.head_dim(), model.context + 1, model.rotary_base, device),
      near(counted_positions(model.context, device)) {
  if (find_score(attention.score) != Score::piecewise) return;
  // Beyond the context no pair is far, so the cap on the cap changes nothing.
  far_query =
      constant_positions(model.context, std::min(attention.threshold, model.context), device);
  far_key = constant_positions(model.context, 0, device);
}

void fill_alibi_slopes(const Tensor& slopes) {
  const std::int64_t heads = slopes.count();
  std::int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  const auto slope = [](double h, double of) { return std::exp2(-8.0 * h / of); };
  dispatch_floating(slopes.dtype, [&]<class T>() {
    for (std::int64_t h = 0; h < heads; ++h)
      slopes.as<T>()[h] = T(h < power ? slope(double(h + 1), double(power))
                                      : slope(double(2 * (h - power) + 1), double(2 * power)));
  });
}

SelfAttention::SelfAttention(ParameterList& parameters, const std::string& path,
                             const ModelConfig& model, const AttentionConfig& attention,
                             std::uint32_t layer, const Rotary* rotary)
    : path_(path),
      context_name_(path + ".context"),
      output_name_(path + ".output"),
      gate_name_(path + ".gate"),
      sink_mass_name_(path + ".sink_mass"),
      row_sum_name_(path + ".row_sum"),
      weights_name_(path + ".weights"),
      dim_(model.dim),
      heads_(model.heads),
      kv_heads_(model.kv_heads),
      head_dim_(model.head_dim()),
      layer_(layer),
      dtype_(parameters.dtype()),
      statistics_dtype_(parameters.master_dtype()),
      device_(parameters.device()),
      config_(attention),
      score_(find_score(attention.score)),
      scale_(scale_of(model, attention, score_)),
      row_normalised_(find_normalizer(attention.normalizer).row_normalised),
      rotary_(rotary),
      qkv_(parameters, path + ".qkv", model.dim, packed_width(), model.bias ? Bias::yes : Bias::no,
           qkv_init(model)),
      q_norm_(make_norm(parameters, path + ".q_norm", model)),
      k_norm_(make_norm(parameters, path + ".k_norm", model)),
      head_parameters_(parameters, path, model, attention),
      gate_(make_gate(parameters, path + ".gate", model, attention)),
      out_(parameters, path + ".out", heads_ * head_dim_, model.dim,
           model.bias ? Bias::yes : Bias::no,
           projection_init(model, Projection::residual, heads_ * head_dim_, model.dim,
                           deepnet_beta(model))) {
  QF_EXPECTS((rotary != nullptr) == (find_position(model.position) == PositionKind::rotary));
  QF_EXPECTS(score_ != Score::piecewise || (rotary != nullptr && rotary->far_query.view()));
  if (!attention.alibi) return;
  OwnedTensor slopes(statistics_dtype_, {heads_});
  fill_alibi_slopes(slopes);
  alibi_slopes_ = to_device(std::move(slopes), device_);
}

void SelfAttention::declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
  const std::int64_t rows = shape.rows(), query_key_width = (heads_ + kv_heads_) * head_dim_;
  const auto saved = [&](const char* name, const Shape& size) {
    return declare_saved(arena, purpose, path_, name, dtype_, size);
  };
  const Shape per_row{shape.batch, heads_, shape.tokens};
  qkv_out_ = saved("qkv", {rows, packed_width()});
  if (q_norm_) {
    normed_ = saved("qk_normed", {rows, query_key_width});
    q_norm_->declare(arena, rows * heads_, purpose);
    k_norm_->declare(arena, rows * kv_heads_, purpose);
  }
  if (score_ == Score::piecewise) far_ = saved("far", {rows, query_key_width});
  context_ = saved("context", {rows, heads_ * head_dim_});
  if (gate_) {
    gated_ = saved("gated", {rows, heads_ * head_dim_});
    gate_->declare(arena, rows, purpose);
  }
  if (row_normalised_) sink_mass_ = arena.declare_shared("sink_mass", statistics_dtype_, per_row);
  row_sum_ = arena.declare_shared("row_sum", statistics_dtype_, per_row);
  head_parameters_.declare(arena, purpose);

  if (purpose == Purpose::training) {
    if (row_normalised_)
      row_state_ = arena.declare(path_ + ".row_state", statistics_dtype_, per_row);
    d_qkv_ = arena.declare_shared("d_qkv", dtype_, {rows, packed_width()});
    d_context_ = arena.declare_shared("d_context", dtype_, {rows, heads_ * head_dim_});
    if (far_) d_far_ = arena.declare_shared("d_far", dtype_, {rows, query_key_width});
  }

  if (hook_ != nullptr && hook_->wants(weights_name_))
    weights_ = arena.declare_shared("attention_weights", statistics_dtype_,
                                    {shape.batch, heads_, shape.tokens, shape.tokens});

  // Shapes without memory: enough to choose and to size the scratch.
  AttentionProblem largest = problem(Memory::shapes, shape);
  add_gradients(largest, Memory::shapes, shape);
  implementation_ = &choose(config_.implementation, largest);
  workspace_ = arena.declare_shared(
      "attention_workspace", DType::u8,
      {purpose == Purpose::training
           ? workspace_bytes(*implementation_, ctx, largest)
           : implementation_->workspace_bytes(ctx, largest, Direction::forward)});
}

Tensor SelfAttention::rows(Memory memory, const Slot& slot, std::int64_t width,
                           BatchShape shape) const {
  if (!slot) return {};
  const Shape size{shape.batch, shape.tokens, width};
  return memory == Memory::slots ? fit(slot, size) : Tensor(nullptr, dtype_, size, device_);
}

SelfAttention::QueryKey SelfAttention::query_key(const Tensor& rows) const {
  return {heads_of(rows, 0, heads_, head_dim_), heads_of(rows, heads_, kv_heads_, head_dim_)};
}

Tensor SelfAttention::values(const Tensor& rows) const {
  return heads_of(rows, heads_ + kv_heads_, kv_heads_, head_dim_);
}

AttentionProblem SelfAttention::problem(Memory memory, BatchShape shape) const {
  const std::int64_t query_key_width = (heads_ + kv_heads_) * head_dim_;
  const Tensor qkv = rows(memory, qkv_out_, packed_width(), shape);
  const QueryKey near = query_key(q_norm_ ? rows(memory, normed_, query_key_width, shape) : qkv);
  const Tensor context = rows(memory, context_, heads_ * head_dim_, shape);
  AttentionProblem p;
  p.q = by_head(near.q);
  p.k = by_head(near.k);
  p.v = by_head(values(qkv));
  p.o = by_head(heads_of(context, 0, heads_, head_dim_));
  if (far_) {
    const QueryKey far = query_key(rows(memory, far_, query_key_width, shape));
    p.q2 = by_head(far.q);
    p.k2 = by_head(far.k);
  }
  const Shape per_row{shape.batch, heads_, shape.tokens};
  if (row_state_)
    p.row_state = memory == Memory::slots ? fit(row_state_, per_row)
                                          : Tensor(nullptr, statistics_dtype_, per_row, device_);
  if (weights_) {
    const Shape size{shape.batch, heads_, shape.tokens, shape.tokens};
    p.weights = memory == Memory::slots ? fit(weights_, size)
                                        : Tensor(nullptr, statistics_dtype_, size, device_);
  }
  p.score = score_;
  p.scale = scale_;
  // Left over from another score, these keys mean nothing.
  if (score_ == Score::cosine) p.groups = static_cast<int>(config_.groups);
  if (score_ == Score::piecewise) p.threshold = config_.threshold;
  p.normalizer = config_.normalizer;
  p.causal = config_.causal;
  p.window = config_.window;
  p.alibi_slopes = alibi_slopes_;
  p.dropout.probability = config_.dropout;
  if (memory == Memory::slots)
    p.key_padding = key_padding_;
  else if (!config_.causal)  // there may be some
    p.key_padding = Tensor(nullptr, DType::u8, {shape.batch, shape.tokens}, device_);
  head_parameters_.set(p, memory);
  return p;
}

void SelfAttention::add_gradients(AttentionProblem& p, Memory memory, BatchShape shape) const {
  if (!d_qkv_) return;
  const std::int64_t query_key_width = (heads_ + kv_heads_) * head_dim_;
  const Tensor d_qkv = rows(memory, d_qkv_, packed_width(), shape);
  const QueryKey near = query_key(d_qkv);
  const Tensor d_context = rows(memory, d_context_, heads_ * head_dim_, shape);
  p.dq = by_head(near.q);
  p.dk = by_head(near.k);
  p.dv = by_head(values(d_qkv));
  p.do_ = by_head(heads_of(d_context, 0, heads_, head_dim_));
  if (d_far_) {
    const QueryKey far = query_key(rows(memory, d_far_, query_key_width, shape));
    p.dq2 = by_head(far.q);
    p.dk2 = by_head(far.k);
  }
  head_parameters_.set_gradients(p, memory);
}

void SelfAttention::add_run_state(AttentionProblem& p, const Context& ctx) const {
  p.workspace = workspace_;
  p.dropout.key = ctx.random.key(RandomPurpose::attention_dropout, layer_);
  p.dropout.first_sample = ctx.random.first_sample;
  p.dropout.place = ctx.random.place(RandomPurpose::attention_dropout, layer_);
}

/// q and k as the projection left them become q and k as attention reads them.
void SelfAttention::prepare_query_key(const Context& ctx) {
  const std::int64_t query_key_width = (heads_ + kv_heads_) * head_dim_;
  const QueryKey source = query_key(rows(Memory::slots, qkv_out_, packed_width(), shape_));
  QueryKey near = source;
  if (q_norm_) {
    near = query_key(rows(Memory::slots, normed_, query_key_width, shape_));
    q_norm_->forward(ctx, by_row(near.q), by_row(source.q));
    k_norm_->forward(ctx, by_row(near.k), by_row(source.k));
  }
  if (rotary_ == nullptr) return;
  if (far_) {  // before the near pair is rotated in place
    const QueryKey far = query_key(rows(Memory::slots, far_, query_key_width, shape_));
    rotary_forward(ctx, far.q, near.q, rotary_->table, first(rotary_->far_query, shape_.tokens));
    rotary_forward(ctx, far.k, near.k, rotary_->table, first(rotary_->far_key, shape_.tokens));
  }
  const Tensor positions = first(rotary_->near, shape_.tokens);
  rotary_forward(ctx, near.q, near.q, rotary_->table, positions);
  rotary_forward(ctx, near.k, near.k, rotary_->table, positions);
}

/// The way back: everything happens in place in d_qkv.
void SelfAttention::prepare_query_key_backward(const Context& ctx) {
  const QueryKey near = query_key(rows(Memory::slots, d_qkv_, packed_width(), shape_));
  if (rotary_ != nullptr) {
    const Tensor positions = first(rotary_->near, shape_.tokens);
    rotary_backward(ctx, near.q, near.q, rotary_->table, positions);
    rotary_backward(ctx, near.k, near.k, rotary_->table, positions);
  }
  if (far_) {
    const QueryKey far =
        query_key(rows(Memory::slots, d_far_, (heads_ + kv_heads_) * head_dim_, shape_));
    rotary_backward(ctx, near.q, far.q, rotary_->table, first(rotary_->far_query, shape_.tokens),
                    Accumulate::add);
    rotary_backward(ctx, near.k, far.k, rotary_->table, first(rotary_->far_key, shape_.tokens),
                    Accumulate::add);
  }
  if (!q_norm_) return;
  q_norm_->backward(ctx, by_row(near.q), by_row(near.q));
  k_norm_->backward(ctx, by_row(near.k), by_row(near.k));
}

void SelfAttention::forward(const Context& ctx, const Tensor& y, const Tensor& x,
                            const Tensor& key_padding) {
  QF_EXPECTS(x.shape.rank == 3 && x.shape[2] == dim_ && implementation_ != nullptr);
  QF_EXPECTS(!key_padding || !config_.causal);
  shape_ = {x.shape[0], x.shape[1]};
  key_padding_ = key_padding;
  qkv_.forward(ctx, rows(Memory::slots, qkv_out_, packed_width(), shape_), x);
  prepare_query_key(ctx);
  if (hook_ != nullptr) replace_operands(ctx);

  AttentionProblem p = problem(Memory::slots, shape_);
  add_run_state(p, ctx);
  const Shape per_row{shape_.batch, heads_, shape_.tokens};
  const auto wanted = [&](const std::string& name) {
    return ctx.probes != nullptr && ctx.probes->wants(name);
  };
  if (row_normalised_ && wanted(sink_mass_name_)) p.sink_mass = fit(sink_mass_, per_row);
  if (wanted(row_sum_name_)) p.row_sum = fit(row_sum_, per_row);
  implementation_->forward(ctx, p);
  if (hook_ != nullptr && p.weights) replace_weights(ctx, p);
  if (ctx.probes != nullptr) ctx.probes->record_attention(ctx, path_, p);

  Tensor context = rows(Memory::slots, context_, heads_ * head_dim_, shape_);
  if (gate_) {
    const Tensor gated = rows(Memory::slots, gated_, heads_ * head_dim_, shape_);
    gate_->forward(ctx, gated, x, context);
    record(ctx, gate_name_, gate_->gates(shape_));
    context = gated;
  }
  record(ctx, context_name_, context);
  if (p.sink_mass) record(ctx, sink_mass_name_, p.sink_mass);
  if (p.row_sum) record(ctx, row_sum_name_, p.row_sum);
  out_.forward(ctx, y, context);
  record(ctx, output_name_, y);
}

void SelfAttention::backward(const Context& ctx, const Tensor& dx, const Tensor& dy) {
  const Tensor d_context = rows(Memory::slots, d_context_, heads_ * head_dim_, shape_);
  out_.backward(ctx, d_context, dy);
  if (gate_) gate_->backward(ctx, dx, d_context, d_context);
  AttentionProblem p = problem(Memory::slots, shape_);
  add_run_state(p, ctx);
  add_gradients(p, Memory::slots, shape_);
  implementation_->backward(ctx, p);
  head_parameters_.accumulate_gradients(ctx);
  prepare_query_key_backward(ctx);
  qkv_.backward(ctx, dx, rows(Memory::slots, d_qkv_, packed_width(), shape_),
                gate_ ? Accumulate::add : Accumulate::overwrite);
}

}  // namespace quietformer
