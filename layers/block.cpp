#include "layers/block.h"

#include <utility>

#include "layers/initialisation.h"
#include "layers/rows.h"

namespace quietformer {

ResidualBranch::ResidualBranch(ParameterList& parameters, const std::string& path, int index,
                               const ModelConfig& model, std::uint32_t layer)
    : path_(path),
      suffix_(std::to_string(index)),
      structure_(find_norm_structure(model.norm_structure)),
      dim_(model.dim),
      alpha_(uses_deepnet(model) ? deepnet_alpha(model) : 1.0),
      dtype_(parameters.dtype()),
      dropout_{model.dropout, layer, index == 1 ? DropoutSite::attention : DropoutSite::mlp},
      norm_(parameters, path + ".norm" + suffix_, find_norm(model.norm), model.dim,
            model.norm_eps) {
  if (structure_ == NormStructure::hybrid)
    post_norm_.emplace(parameters, path + ".norm" + suffix_ + "_post", find_norm(model.norm),
                       model.dim, model.norm_eps);
  if (model.layer_scale > 0)
    gain_ = parameters.add(path + ".layer_scale" + suffix_ + ".weight", {model.dim},
                           Init::constant(model.layer_scale));
}

void ResidualBranch::declare(Arena& arena, BatchShape shape, Purpose purpose) {
  const Shape size{shape.rows(), dim_};
  const auto saved = [&](const std::string& name) {
    return purpose == Purpose::training ? arena.declare(path_ + "." + name + suffix_, dtype_, size)
                                        : arena.declare_shared(name, dtype_, size);
  };
  const auto temporary = [&](const char* name) { return arena.declare_shared(name, dtype_, size); };
  norm_.declare(arena, shape.rows(), purpose);
  if (post_norm_) post_norm_->declare(arena, shape.rows(), purpose);
  if (structure_ != NormStructure::post) normed_ = saved("normed");
  // Read again only by the gradients of the gain and of the second norm.
  branch_ = post_norm_ || gain_.value ? saved("branch") : temporary("branch");
  if (post_norm_) joined_ = gain_.value ? saved("joined") : temporary("joined");
  if (structure_ == NormStructure::post) sum_ = saved("sum");
  if (purpose == Purpose::inference) return;
  d_branch_ = temporary("d_branch");
  d_input_ = temporary("d_input");
}

Tensor ResidualBranch::sized(const Slot& slot, BatchShape shape) const {
  return fit(slot, {shape.batch, shape.tokens, dim_});
}

FollowingNorm ResidualBranch::following(BatchShape shape) {
  if (structure_ == NormStructure::post) return {};
  normed_already_ = true;
  return {&norm_, sized(normed_, shape)};
}

Tensor ResidualBranch::input(const Context& ctx, const Tensor& x) {
  shape_ = {x.shape[0], x.shape[1]};
  if (structure_ == NormStructure::post) return x;
  const Tensor normed = sized(normed_, shape_);
  if (!std::exchange(normed_already_, false)) norm_.forward(ctx, normed, x);
  return normed;
}

void ResidualBranch::join(const Context& ctx, const Tensor& y, const Tensor& x,
                          const FollowingNorm& next) {
  Tensor branch = sized(branch_, shape_);
  if (post_norm_) {
    const Tensor joined = sized(joined_, shape_);
    post_norm_->forward(ctx, joined, branch);
    branch = joined;
  }
  Join join{x, branch, y, alpha_, gain_.master, dropout_};
  // The gradient of the gain reads the branch as it is after dropout.
  if (gain_.value) {
    dropout_apply(ctx, dropout_, branch, branch);
    join.dropout.probability = 0;
  }
  if (structure_ == NormStructure::post) {
    join.sum = sized(sum_, shape_);
    return norm_.forward(ctx, y, join);
  }
  if (next.norm != nullptr) return next.norm->forward(ctx, next.normed, join);
  dropout_apply(ctx, join.dropout, branch, branch);
  residual_forward(ctx, y, x, branch, alpha_, gain_.master);
}

Tensor ResidualBranch::join_backward(const Context& ctx, const Tensor& gradient) {
  if (structure_ == NormStructure::post) norm_.backward(ctx, gradient, gradient);
  const Tensor d_branch = sized(d_branch_, shape_);
  Tensor current = gradient;  // stays there as long as nothing changes it
  if (gain_.value) {
    const Tensor branch = sized(post_norm_ ? joined_ : branch_, shape_);
    residual_backward_gain(ctx, d_branch, gain_.grad, current, branch, gain_.master);
    current = d_branch;
  }
  if (active(ctx, dropout_)) {
    dropout_apply(ctx, dropout_, d_branch, current);
    current = d_branch;
  }
  if (post_norm_) {
    post_norm_->backward(ctx, d_branch, current);
    current = d_branch;
  }
  return current;
}

void ResidualBranch::input_backward(const Context& ctx, const Tensor& gradient) {
  const Tensor d_input = sized(d_input_, shape_);
  if (structure_ == NormStructure::post)
    residual_forward(ctx, gradient, gradient, d_input, alpha_, {});
  else
    norm_.backward(ctx, gradient, d_input, Accumulate::add);
}

Block::Block(ParameterList& parameters, const std::string& path, const ModelConfig& model,
             const AttentionConfig& attention, std::uint32_t layer, const Rotary* rotary)
    : path_(path),
      output_name_(path + ".output"),
      dim_(model.dim),
      dtype_(parameters.dtype()),
      branch1_(parameters, path, 1, model, layer),
      attention_(parameters, path + ".attention", model, attention, layer, rotary),
      branch2_(parameters, path, 2, model, layer),
      mlp_(parameters, path + ".mlp", model) {}

void Block::declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
  middle_ = declare_saved(arena, purpose, path_, "middle", dtype_, {shape.rows(), dim_});
  branch1_.declare(arena, shape, purpose);
  attention_.declare(ctx, arena, shape, purpose);
  branch2_.declare(arena, shape, purpose);
  mlp_.declare(arena, shape, purpose);
}

void Block::forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& key_padding,
                    const FollowingNorm& next) {
  const BatchShape shape{x.shape[0], x.shape[1]};
  const Tensor middle = fit(middle_, x.shape);
  attention_.forward(ctx, branch1_.output(shape), branch1_.input(ctx, x), key_padding);
  branch1_.join(ctx, middle, x, branch2_.following(shape));
  mlp_.forward(ctx, branch2_.output(shape), branch2_.input(ctx, middle));
  branch2_.join(ctx, y, middle, next);
  record(ctx, output_name_, y);
}

void Block::backward(const Context& ctx, const Tensor& gradient) {
  const BatchShape shape{gradient.shape[0], gradient.shape[1]};
  mlp_.backward(ctx, branch2_.d_input(shape), branch2_.join_backward(ctx, gradient));
  branch2_.input_backward(ctx, gradient);
  attention_.backward(ctx, branch1_.d_input(shape), branch1_.join_backward(ctx, gradient));
  branch1_.input_backward(ctx, gradient);
}

}  // namespace quietformer
