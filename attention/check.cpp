#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "attention/registry.h"

namespace quietformer {
namespace {

bool present(const Tensor& tensor) {
  return tensor.shape.rank != 0;
}

template <class... Values>
[[noreturn]] void fail(fmt::format_string<Values...> text, Values&&... values) {
  throw InputError("attention " + fmt::format(text, std::forward<Values>(values)...));
}

void check_type(std::string_view name, const Tensor& tensor, DType dtype, Device device) {
  if (tensor.dtype != dtype)
    fail("{}: type {}, expected {}", name, name_of(tensor.dtype), name_of(dtype));
  if (tensor.device != device) fail("{}: not on the device of q", name);
  if (tensor.data == nullptr && tensor.count() > 0) fail("{}: has a shape but no memory", name);
}

void check_shape(std::string_view name, const Tensor& tensor, const Shape& expected) {
  if (!(tensor.shape == expected))
    fail("{}: shape {}, expected {}", name, to_string(tensor.shape), to_string(expected));
}

void check_inner_stride(std::string_view name, const Tensor& tensor) {
  const int last = tensor.shape.rank - 1;
  if (tensor.shape[last] > 1 && tensor.stride[last] != 1)
    fail("{}: inner stride {}, expected 1", name, tensor.stride[last]);
  for (int i = 0; i < last; ++i)
    if (tensor.shape[i] > 1 && tensor.stride[i] < 0)
      fail("{}: stride {} of dimension {}, expected no negative stride", name, tensor.stride[i], i);
}

/// Outputs: no element may be reachable by two index tuples. Sorted by stride, every dimension must
/// step over the whole extent of the smaller ones.
void check_no_overlap(std::string_view name, const Tensor& tensor) {
  if (tensor.count() == 0) return;
  std::array<int, kMaxRank> order{};
  int dims = 0;
  for (int i = 0; i < tensor.shape.rank; ++i)
    if (tensor.shape[i] > 1) {
      int at = dims++;
      for (; at > 0 && tensor.stride[order[at - 1]] > tensor.stride[i]; --at)
        order[at] = order[at - 1];
      order[at] = i;
    }
  std::int64_t extent = 1;
  for (int at = 0; at < dims; ++at) {
    const int i = order[at];
    if (tensor.stride[i] < extent)
      fail("{}: stride {} of dimension {}, expected at least {}: elements overlap", name,
           tensor.stride[i], i, extent);
    extent = tensor.stride[i] * (tensor.shape[i] - 1) + extent;
  }
}

void check_contiguous(std::string_view name, const Tensor& tensor) {
  if (!tensor.contiguous()) fail("{}: not contiguous", name);
}

/// The longest queries and keys that (i, j) can index: of the batch, or of all packed sequences.
struct Extents {
  std::int64_t queries = 0, keys = 0;
};

class Checker {
 public:
  explicit Checker(const AttentionProblem& problem)
      : p_(problem), accumulation_(accumulation_dtype(problem.q.dtype)) {}

  void all() {
    inputs();
    score();
    if (!p_.packed() && present(p_.cu_seqlens_k))
      fail("cu_seqlens_q: absent, but cu_seqlens_k is there");
    extents_ = p_.packed() ? packed() : Extents{p_.q.shape[2], p_.k.shape[2]};
    masks();
    normalizer();
    outputs();
    gradients();
  }

 private:
  void inputs() const {
    for (const auto& [name, tensor] : {std::pair{"q", &p_.q}, {"k", &p_.k}, {"v", &p_.v}})
      if (tensor->shape.rank != 4)
        fail("{}: shape {}, expected rank 4 (set_inputs takes lower ranks)", name,
             to_string(tensor->shape));
    const bool gpu_type = p_.q.dtype == DType::f16 && p_.q.device.type == DeviceType::cuda;
    if (p_.q.dtype != DType::f32 && p_.q.dtype != DType::f64 && p_.q.dtype != DType::bf16 &&
        !gpu_type)
      fail("q: type {}, expected f32, f64 or bf16 (f16 on a GPU)", name_of(p_.q.dtype));
    const Shape &q = p_.q.shape, &k = p_.k.shape, &v = p_.v.shape;
    if (q[1] < 1 || q[3] < 1 || v[3] < 1)
      fail("q: shape {} with v {}, expected at least one head and one feature", to_string(q),
           to_string(v));
    check_shape("k", p_.k, {q[0], k[1], k[2], q[3]});
    check_shape("v", p_.v, {q[0], k[1], k[2], v[3]});
    if (k[1] < 1 || q[1] % k[1] != 0)
      fail("k: {} key heads do not divide {} query heads", k[1], q[1]);
    input("q", p_.q);
    input("k", p_.k);
    input("v", p_.v);
  }

  void input(std::string_view name, const Tensor& tensor) const {
    check_type(name, tensor, p_.q.dtype, p_.q.device);
    check_inner_stride(name, tensor);
  }

  void score() const {
    const ScoreInfo& info = info_of(p_.score);
    const bool far = info.pairs == 2;
    if (present(p_.q2) != far || present(p_.k2) != far)
      fail("q2, k2: score {} takes {}", info.name, far ? "both" : "neither");
    if (!far && (present(p_.dq2) || present(p_.dk2)))
      fail("dq2, dk2: score {} takes neither", info.name);
    if (far) {
      check_shape("q2", p_.q2, p_.q.shape);
      check_shape("k2", p_.k2, p_.k.shape);
      input("q2", p_.q2);
      input("k2", p_.k2);
    } else if (p_.threshold != 0) {
      fail("threshold: {} with score {}, expected 0: it has one pair", p_.threshold, info.name);
    }
    if (!std::isfinite(p_.scale) || p_.scale == 0)
      fail("scale: {}, expected a finite number other than 0", p_.scale);
    if (info.operands != Operands::unit_groups && p_.groups != 1)
      fail("groups: {} with score {}, expected 1: it has no norms", p_.groups, info.name);
    if (p_.groups < 1 || p_.q.shape[3] % p_.groups != 0)
      fail("groups: {} do not divide head dim {}", p_.groups, p_.q.shape[3]);
  }

  Extents packed() const {
    const std::int64_t queries = longest("cu_seqlens_q", p_.cu_seqlens_q, p_.q.shape[2]);
    const std::int64_t keys = longest("cu_seqlens_k", p_.cu_seqlens_k, p_.k.shape[2]);
    check_shape("cu_seqlens_k", p_.cu_seqlens_k, p_.cu_seqlens_q.shape);
    if (p_.q.shape[0] != 1)
      fail("q: shape {}, expected batch 1 with packed sequences", to_string(p_.q.shape));
    if (present(p_.weights)) fail("weights: not available for packed sequences");
    return {queries, keys};
  }

  std::int64_t longest(std::string_view name, const Tensor& cu_seqlens, std::int64_t total) const {
    if (cu_seqlens.shape.rank != 1 || cu_seqlens.shape[0] < 1)
      fail("{}: shape {}, expected (B + 1)", name, to_string(cu_seqlens.shape));
    check_type(name, cu_seqlens, DType::i32, p_.q.device);
    check_contiguous(name, cu_seqlens);
    // What lies on a GPU is not looked at: the caller vouches for it.
    if (cu_seqlens.device.type != DeviceType::cpu) return std::min<std::int64_t>(total, 1);
    const std::int32_t* at = cu_seqlens.as<std::int32_t>();
    const std::int64_t count = cu_seqlens.shape[0] - 1;
    std::int64_t length = 0;
    for (std::int64_t b = 0; b < count; ++b) {
      if (at[b + 1] < at[b]) fail("{}: {} after {}, expected to grow", name, at[b + 1], at[b]);
      length = std::max<std::int64_t>(length, at[b + 1] - at[b]);
    }
    if (at[0] != 0 || at[count] != total)
      fail("{}: from {} to {}, expected from 0 to {}", name, at[0], at[count], total);
    return length;
  }

  /// Every dimension is 1 or full; packed sequences may have more queries and keys than needed.
  void broadcast(std::string_view name, const Tensor& tensor, DType dtype) const {
    const std::array<std::int64_t, 4> full{p_.batch(), p_.heads(), extents_.queries, extents_.keys};
    bool fits = tensor.shape.rank == 4;
    for (int i = 0; fits && i < 4; ++i)
      fits = tensor.shape[i] == 1 || tensor.shape[i] == full[i] ||
             (p_.packed() && i >= 2 && tensor.shape[i] > full[i]);
    if (!fits)
      fail("{}: shape {}, expected ({}|1, {}|1, {}|1, {}|1)", name, to_string(tensor.shape),
           full[0], full[1], full[2], full[3]);
    check_type(name, tensor, dtype, p_.q.device);
  }

  void masks() const {
    for (int side = 0; side < 2; ++side)
      if (p_.window[side] < -1)
        fail("window: [{}, {}], expected -1 (unlimited) or more", p_.window[0], p_.window[1]);
    if (present(p_.mask)) broadcast("mask", p_.mask, DType::u8);
    if (present(p_.bias)) broadcast("bias", p_.bias, accumulation_);
    if (present(p_.key_padding)) {
      const Shape& shape = p_.key_padding.shape;
      const std::int64_t keys = shape.rank == 2 ? shape[1] : 0;
      check_shape("key_padding", p_.key_padding,
                  {p_.batch(), p_.packed() ? std::max(keys, extents_.keys) : extents_.keys});
      check_type("key_padding", p_.key_padding, DType::u8, p_.q.device);
    }
    if (present(p_.alibi_slopes)) {
      if (p_.alibi_slopes.shape.rank == 2)
        check_shape("alibi_slopes", p_.alibi_slopes, {p_.batch(), p_.heads()});
      else
        check_shape("alibi_slopes", p_.alibi_slopes, {p_.heads()});
      check_type("alibi_slopes", p_.alibi_slopes, accumulation_, p_.q.device);
    }
    if (!(p_.dropout.probability >= 0 && p_.dropout.probability < 1))
      fail("dropout: probability {}, expected 0 <= p < 1", p_.dropout.probability);
  }

  void normalizer() const {
    const NormalizerInfo& info = find_normalizer(p_.normalizer);
    const int count = static_cast<int>(info.parameters.size());
    for (int k = 0; k < kMaxHeadParameters; ++k) {
      const Tensor &value = p_.head_parameters[k], &gradient = p_.d_head_parameters[k];
      if (k >= count && (present(value) || present(gradient)))
        fail("head parameter {}: {} has {}", k, info.name, count);
      if (present(value)) head_parameter(info.parameters[k], value);
      if (present(gradient)) output("gradient of head parameter", gradient, {p_.heads()});
    }
    for (const auto& [name, tensor] :
         {std::pair{"lse", &p_.lse}, {"lse_scores", &p_.lse_scores}, {"sink_mass", &p_.sink_mass}})
      if (!info.row_normalised && present(*tensor))
        fail("{}: {} has no row denominator", name, info.name);
  }

  void head_parameter(const HeadParameterInfo& info, const Tensor& value) const {
    const std::string_view name = info.name;
    check_shape(name, value, {p_.heads()});
    check_type(name, value, accumulation_, p_.q.device);
    check_contiguous(name, value);
    if (value.device.type != DeviceType::cpu) return;
    dispatch_floating(value.dtype, [&]<class T>() {
      for (std::int64_t h = 0; h < value.count(); ++h)
        if (const double x = double(value.as<T>()[h]); !(x >= info.minimum))
          fail("{}: {} for head {}, expected at least {}", name, x, h, info.minimum);
        else if (!(x <= info.maximum))
          fail("{}: {} for head {}, expected at most {}", name, x, h, info.maximum);
    });
  }

  void output(std::string_view name, const Tensor& tensor, const Shape& shape) const {
    if (!present(tensor)) return;
    check_shape(name, tensor, shape);
    check_type(name, tensor, accumulation_, p_.q.device);
    check_contiguous(name, tensor);
  }

  void strided_output(std::string_view name, const Tensor& tensor, const Shape& shape) const {
    if (!present(tensor)) return;
    check_shape(name, tensor, shape);
    input(name, tensor);
    check_no_overlap(name, tensor);
  }

  Shape o_shape() const { return {p_.q.shape[0], p_.heads(), p_.q.shape[2], p_.v.shape[3]}; }

  void outputs() const {
    const Shape rows{p_.q.shape[0], p_.heads(), p_.q.shape[2]};
    strided_output("o", p_.o, o_shape());
    output("row_state", p_.row_state, rows);
    output("lse", p_.lse, rows);
    output("lse_scores", p_.lse_scores, rows);
    output("sink_mass", p_.sink_mass, rows);
    output("row_sum", p_.row_sum, rows);
    output("total_attention", p_.total_attention, {p_.q.shape[0], p_.heads(), p_.k.shape[2]});
    output("weights", p_.weights, {p_.q.shape[0], p_.heads(), p_.q.shape[2], p_.k.shape[2]});
  }

  void gradients() const {
    if (present(p_.do_)) {
      check_shape("do", p_.do_, o_shape());
      input("do", p_.do_);
    }
    strided_output("dq", p_.dq, p_.q.shape);
    strided_output("dk", p_.dk, p_.k.shape);
    strided_output("dv", p_.dv, p_.v.shape);
    strided_output("dq2", p_.dq2, p_.q.shape);
    strided_output("dk2", p_.dk2, p_.k.shape);
    if (present(p_.dbias) && !present(p_.bias)) fail("dbias: there is no bias");
    output("dbias", p_.dbias, p_.bias.shape);
    output("dscale", p_.dscale, {1});
  }

  const AttentionProblem& p_;
  const DType accumulation_;
  Extents extents_;
};

}  // namespace

void check(const AttentionProblem& problem) {
  Checker(problem).all();
}

void check(const AttentionProblem& problem, Direction direction) {
  check(problem);
  if (direction == Direction::forward) {
    if (!present(problem.o)) fail("o: absent, forward writes it");
    return;
  }
  if (!present(problem.do_)) fail("do: absent, backward reads it");
  if (!present(problem.o)) fail("o: absent, backward reads it");
  if (!present(problem.row_state) && find_normalizer(problem.normalizer).row_normalised)
    fail("row_state: absent, backward of {} reads it", problem.normalizer);
}

}  // namespace quietformer
