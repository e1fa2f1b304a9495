// One attention problem on a GPU, the same in f64 on the CPU, and what 16-bit types cost a
// computation that is not fused.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/cuda/flash.h"
#include "core/cuda/memory.h"
#include "core/math.h"
#include "core/random.h"
#include "tests/attention/attention_case.h"

namespace quietformer::test {

inline constexpr Device kGpu{DeviceType::cuda, 0};

/// To the nearest f16, ties to even; not beyond the largest.
inline double round_to_f16(double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const double ulp = std::ldexp(1.0, std::max(exponent - 1, -14) - 10);
  return std::nearbyint(value / ulp) * ulp;
}

inline double round_to(DType dtype, double value) {
  if (dtype == DType::f16) return round_to_f16(value);
  return double(bf16_to_float(float_to_bf16(float(value))));
}

/// The word of a value that round_to() leaves as it is.
inline std::uint16_t word_of(DType dtype, double value) {
  if (dtype == DType::bf16) return float_to_bf16(float(value));
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  value = std::abs(value);
  if (value < 0x1p-14) return std::uint16_t(sign | std::uint16_t(value * 0x1p24));
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);  // in [1/2, 1)
  return std::uint16_t(sign | (exponent + 14) << 10 | (std::uint16_t(fraction * 2048) - 1024));
}

inline double value_of(DType dtype, std::uint16_t word) {
  return double(dtype == DType::f16 ? f16_to_float(word) : bf16_to_float(word));
}

/// How q, k, v and o lie in memory.
enum class Rows { heads_first, rows_first, slice_of_packed, misaligned };

struct GpuOptions : CaseOptions {
  DType storage = DType::bf16;
  Rows rows = Rows::heads_first;
  bool total_attention = false;
};

/// A (B, heads, rows, features) tensor on the GPU with elements around it that belong to nobody.
class GpuRows {
 public:
  GpuRows() = default;
  GpuRows(DType dtype, const Shape& shape, Rows rows) : dtype_(dtype) {
    // Elements of other tensors before and after each row.
    const std::int64_t before = rows == Rows::slice_of_packed ? 64
                                : rows == Rows::misaligned    ? 1
                                                              : 0;
    const std::int64_t after = rows == Rows::slice_of_packed ? 128
                               : rows == Rows::misaligned    ? 2
                                                             : 0;
    const bool heads_first = rows == Rows::heads_first;
    memory_ =
        OwnedTensor(dtype,
                    heads_first ? Shape{shape[0], shape[1], shape[2], shape[3]}
                                : Shape{shape[0], shape[2], shape[1], before + shape[3] + after},
                    kGpu);
    place_ = memory_.view().slice(3, before, shape[3]);
    if (!heads_first) place_ = place_.transpose(1, 2);
    words_.assign(std::size_t(memory_.view().count()), kNobodys);
  }

  const Tensor& view() const { return place_; }

  /// From an f64 tensor of the same shape on the host.
  void upload(const Tensor& from) {
    for (std::int64_t i = 0; i < from.count(); ++i)
      words_[index(i)] = word_of(dtype_, get(from, i));
    to_device();
  }

  void to_device() const { cuda::copy(memory_, on_host()); }
  void from_device() const { cuda::copy(on_host(), memory_); }

  double value(std::int64_t i) const { return value_of(dtype_, words_[index(i)]); }
  const std::vector<std::uint16_t>& words() const { return words_; }

  /// After from_device(): nothing was written between the rows.
  bool intact() const {
    std::vector<std::uint16_t> rest = words_;
    for (std::int64_t i = 0; i < place_.count(); ++i) rest[index(i)] = kNobodys;
    return std::all_of(rest.begin(), rest.end(), [](std::uint16_t w) { return w == kNobodys; });
  }

 private:
  static constexpr std::uint16_t kNobodys = 0xFFFF;  // a NaN of either type
  std::size_t index(std::int64_t i) const {
    const auto* const base = static_cast<const std::uint16_t*>(memory_.view().data);
    return std::size_t(static_cast<const std::uint16_t*>(place_.data) - base +
                       offset_of(place_, i));
  }
  Tensor on_host() const {
    return Tensor(const_cast<std::uint16_t*>(words_.data()), dtype_, memory_.view().shape);
  }

  DType dtype_ = DType::bf16;
  OwnedTensor memory_;
  Tensor place_;
  std::vector<std::uint16_t> words_;
};

class GpuCase {
 public:
  explicit GpuCase(const GpuOptions& options) : o_(options), reference_(on_cpu(options)) {
    ctx_.device = kGpu;
    const AttentionProblem& r = reference_.problem;
    ctx_.mode = Mode::train;
    for (const Tensor& tensor : {r.q, r.k, r.v, r.q2, r.k2})
      for (std::int64_t i = 0; i < tensor.count() && tensor; ++i)
        set(tensor, i, round_to(o_.storage, get(tensor, i)));
    for (const Tensor& tensor : {r.bias, r.alibi_slopes})
      for (std::int64_t i = 0; i < tensor.count() && tensor; ++i)
        set(tensor, i, double(float(get(tensor, i))));
    if (!o_.total_attention) reference_.problem.total_attention = {};
    problem_ = r;
    problem_.do_ = problem_.dq = problem_.dk = problem_.dv = problem_.dq2 = problem_.dk2 = {};
    problem_.dscale = problem_.dbias = problem_.weights = problem_.workspace = {};
    for (Tensor& gradient : problem_.d_head_parameters) gradient = {};
    for (const auto member : {&AttentionProblem::q, &AttentionProblem::k, &AttentionProblem::v,
                              &AttentionProblem::q2, &AttentionProblem::k2, &AttentionProblem::o}) {
      const Tensor& host = r.*member;
      if (host.shape.rank == 0) continue;
      GpuRows& rows = rows_.emplace_back(o_.storage, host.shape, o_.rows);
      if (member != &AttentionProblem::o) rows.upload(host);
      rows.to_device();
      problem_.*member = rows.view();
    }
    for (Tensor& parameter : problem_.head_parameters)
      if (parameter) parameter = upload(parameter);
    for (const auto member : {&AttentionProblem::bias, &AttentionProblem::alibi_slopes,
                              &AttentionProblem::mask, &AttentionProblem::key_padding,
                              &AttentionProblem::cu_seqlens_q, &AttentionProblem::cu_seqlens_k})
      if (Tensor& option = problem_.*member) option = upload(option);
    for (const auto member : kStatistics)
      if (Tensor& statistic = problem_.*member; statistic.shape.rank != 0)
        statistic = upload(statistic);  // of whatever is there: overwritten
    workspace_ = OwnedTensor(
        DType::u8,
        {cuda::flash_implementation().workspace_bytes(ctx_, problem_, Direction::forward)}, kGpu);
    problem_.workspace = workspace_;
  }

  AttentionProblem& problem() { return problem_; }
  const Context& ctx() const { return ctx_; }

  void forward() {
    cuda::flash_implementation().forward(ctx_, problem_);
    cuda::synchronize(kGpu);
    rows_.back().from_device();
  }

  /// Words of o and of the statistics after forward().
  std::vector<std::vector<std::uint16_t>> bits() const {
    std::vector<std::vector<std::uint16_t>> all{rows_.back().words()};
    for (const auto member : kStatistics)
      if (const Tensor& statistic = problem_.*member; statistic.shape.rank != 0)
        all.push_back(words_of(statistic));
    return all;
  }

  /// The twofold rule for o and 2e-5 of the largest for the statistics, which f32 sums make.
  void expect_correct() {
    reference_.forward();
    const AttentionProblem& r = reference_.problem;
    ASSERT_TRUE(rows_.back().intact()) << "written outside of o";
    const std::vector<double> unfused = unfused_output();
    double error = 0, allowed = 0;
    for (std::int64_t i = 0; i < r.o.count(); ++i) {
      const double exact = get(r.o, i), found = rows_.back().value(i);
      ASSERT_TRUE(std::isfinite(found)) << "o, element " << i << ": " << found;
      error = std::max(error, std::abs(found - exact));
      allowed = std::max(allowed, std::abs(unfused[std::size_t(i)] - exact));
    }
    ASSERT_TRUE(std::isfinite(allowed)) << "o of the unfused computation";
    EXPECT_LE(error, 2 * allowed + 1e-5) << "o; the unfused computation has " << allowed;
    for (const auto member : kStatistics)
      if (const Tensor& statistic = problem_.*member; statistic.shape.rank != 0) {
        const OwnedTensor host(DType::f32, statistic.shape);
        cuda::copy(host, statistic);
        // Weights under 1e-38 are 0 to float, and so may be the sum of a thousand of them.
        for (std::int64_t i = 0; i < statistic.count(); ++i)
          if (std::abs(get(r.*member, i)) < 1e-34)
            set(r.*member, i, std::abs(get(host, i)) < 1e-34 ? get(host, i) : 0);
        EXPECT_TRUE(close(host, r.*member, statistics_tolerance()));
      }
  }

 protected:
  static constexpr Tensor AttentionProblem::*kStatistics[] = {
      &AttentionProblem::row_state, &AttentionProblem::lse,     &AttentionProblem::lse_scores,
      &AttentionProblem::sink_mass, &AttentionProblem::row_sum, &AttentionProblem::total_attention};

  static CaseOptions on_cpu(const GpuOptions& options) {
    CaseOptions o = options;
    o.implementation = "flash";
    o.dtype = DType::f64;
    return o;
  }

  /// Masks and lengths as they are, the rest in f32.
  Tensor upload(const Tensor& host) {
    const DType dtype = host.dtype == DType::f64 ? DType::f32 : host.dtype;
    const OwnedTensor narrow = copy_as(host, dtype);
    const OwnedTensor& there = owned_.emplace_back(dtype, host.shape, kGpu);
    cuda::copy(there, narrow);
    return there;
  }

  /// The halves of an f32 tensor on the GPU.
  static std::vector<std::uint16_t> words_of(const Tensor& there) {
    const OwnedTensor host(DType::f32, there.shape);
    cuda::copy(host, there);
    const auto* const words = static_cast<const std::uint16_t*>(host.view().data);
    return {words, words + 2 * there.count()};
  }

  bool rounds_operands() const { return o_.groups > 1 || (clips() && o_.score == Score::cosine); }

  /// f32 sums of f32 terms; operands of several groups are rounded before their product, and so are
  /// all unit operands whose weights are clipped.
  double statistics_tolerance() const {
    // The shares of a row are as exact as its lse.
    if (!rounds_operands())
      return clips() ? 2e-5 + 0x1p-23 * max_abs(reference_.problem.lse) : 2e-5;
    return o_.storage == DType::bf16 ? 5e-2 : 7e-3;
  }

  double rounded(double value) const { return round_to(o_.storage, value); }

  /// Rows of a head as they enter the product: normalised and rounded for cosine.
  std::vector<float> operand(const Tensor& t, std::int64_t head) const {
    const std::int64_t rows = t.shape[2], dim = t.shape[3], size = dim / o_.groups;
    std::vector<float> all(std::size_t(rows * dim));
    for (std::int64_t at = 0; at < rows * dim; at += size) {
      double square = 0;
      for (std::int64_t c = at; c < at + size; ++c)
        square += std::pow(get(t, head * rows * dim + c), 2);
      const double norm = std::max(std::sqrt(square), 1e-12);
      for (std::int64_t c = at; c < at + size; ++c) {
        const double x = get(t, head * rows * dim + c);
        all[std::size_t(c)] = float(o_.score == Score::cosine ? rounded(x / norm) : x);
      }
    }
    return all;
  }

  static float dot(const float* a, const float* b, std::int64_t count) {
    float sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
  }

  double parameter(int k, std::int64_t head, double absent) const {
    const Tensor& tensor = reference_.problem.head_parameters[std::size_t(k)];
    return tensor ? get(tensor, head) : absent;
  }

  /// Element of a (B|1, H|1, L|1, S|1) tensor.
  static double broadcast(const Tensor& t, std::int64_t b, std::int64_t h, std::int64_t i,
                          std::int64_t j) {
    const auto at = [&t](int dim, std::int64_t index) { return t.shape[dim] == 1 ? 0 : index; };
    return get(
        t, ((at(0, b) * t.shape[1] + at(1, h)) * t.shape[2] + at(2, i)) * t.shape[3] + at(3, j));
  }

  /// The rows of one sequence.
  struct SequenceRows {
    std::int64_t index, head, kv_head, first_query, queries, first_key, keys;
  };

  /// f(rows, query head) for every head of every sequence.
  template <class F>
  void for_each_head(F&& f) const {
    const AttentionProblem& p = reference_.problem;
    const std::int64_t H = p.heads(), group = H / p.kv_heads();
    for (std::int64_t b = 0; b < p.batch(); ++b)
      for (std::int64_t h = 0; h < H; ++h) {
        SequenceRows s{b, b * H + h,   b * p.kv_heads() + h / group, 0, p.q.shape[2],
                       0, p.k.shape[2]};
        if (p.packed()) {
          const std::int32_t *q = p.cu_seqlens_q.as<std::int32_t>() + b,
                             *k = p.cu_seqlens_k.as<std::int32_t>() + b;
          s = {b, h, h / group, q[0], q[1] - q[0], k[0], k[1] - k[0]};
        }
        f(s, h);
      }
  }

  /// -inf where key j is hidden from query i.
  double score(const SequenceRows& s, std::int64_t h, std::int64_t i, std::int64_t j,
               double product) const {
    const AttentionProblem& p = reference_.problem;
    const std::int64_t position = i + s.keys - s.queries;
    const bool hidden =
        (p.causal && j > position) || (p.window[0] >= 0 && j < position - p.window[0]) ||
        (p.window[1] >= 0 && j > position + p.window[1]) ||
        (p.mask && broadcast(p.mask, s.index, h, i, j) == 0) ||
        (p.key_padding && get(p.key_padding, s.index * p.key_padding.shape[1] + j) == 0);
    if (hidden) return -math::kInfinity<double>;
    const auto round = [&](double value) { return rounds_scores_ ? rounded(value) : value; };
    double score = round(round(product) * p.scale);
    if (p.bias) score = round(score + broadcast(p.bias, s.index, h, i, j));
    if (const Tensor& slopes = p.alibi_slopes) {
      const double slope = get(slopes, slopes.shape.rank == 1 ? h : s.index * p.heads() + h);
      score = round(score - round(slope * double(std::abs(position - j))));
    }
    return score;
  }

  double kept(const SequenceRows& s, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const AttentionDropout& d = reference_.problem.dropout;
    if (d.probability == 0) return 1;
    const auto word = [](std::int64_t n) { return static_cast<std::uint32_t>(n); };
    const bool keep = dropout_keep(d.key, dropout_threshold(d.probability),
                                   d.first_sample + word(s.index), word(h), word(i), word(j));
    return keep ? 1 / (1 - d.probability) : 0;
  }

  // --- the normaliser, with what it makes rounded to the storage type ---

  bool softmax() const { return o_.normalizer != "sigmoid"; }
  bool clips() const { return o_.normalizer == "clipped_softmax"; }

  /// What a row of softmax divides by, relative to its largest score.
  double denominator(const std::vector<double>& scores, double high, std::int64_t h) const {
    double sum = 0;
    for (const double score : scores) sum += std::exp(score - high);
    if (!clips())
      sum += parameter(0, h, 0) * std::exp(-high) +
             std::exp(parameter(1, h, -math::kInfinity<double>) - high);
    return sum;
  }

  /// A weight before clipping.
  double unclipped(double share, std::int64_t h) const {
    const double gamma = parameter(0, h, -0.03), zeta = parameter(1, h, 1);
    return rounded(rounded((zeta - gamma) * share) + gamma);
  }
  double weight_of(double share, std::int64_t h) const {
    return clips() ? std::clamp(unclipped(share, h), 0.0, 1.0) : share;
  }

  /// o with products, scores, weights and o rounded to the storage type, sums in f32: what a chain
  /// of 16-bit operations gives.
  std::vector<double> unfused_output() const {
    std::vector<double> out(std::size_t(reference_.problem.o.count()), 0.0);
    for_each_head([&](const SequenceRows& s, std::int64_t h) { unfused_rows(s, h, out); });
    return out;
  }

  void unfused_rows(const SequenceRows& rows, std::int64_t h, std::vector<double>& out) const {
    const AttentionProblem& p = reference_.problem;
    const std::int64_t D = p.q.shape[3], Dv = p.v.shape[3], S = rows.keys;
    const auto q = operand(p.q, rows.head), k = operand(p.k, rows.kv_head);
    const bool far_pair = p.score == Score::piecewise;
    const auto q2 = far_pair ? operand(p.q2, rows.head) : q,
               k2 = far_pair ? operand(p.k2, rows.kv_head) : k;
    std::vector<double> s(static_cast<std::size_t>(S));
    std::vector<float> sums(static_cast<std::size_t>(Dv));
    for (std::int64_t i = 0; i < rows.queries; ++i) {
      double high = -math::kInfinity<double>;
      for (std::int64_t j = 0; j < S; ++j) {
        const bool far = far_pair && i + S - rows.queries - j >= p.threshold;
        const double product = double(dot((far ? q2 : q).data() + (rows.first_query + i) * D,
                                          (far ? k2 : k).data() + (rows.first_key + j) * D, D));
        s[std::size_t(j)] = score(rows, h, i, j, product);
        high = std::max(high, s[std::size_t(j)]);
      }
      const double sum = softmax() && high > -math::kInfinity<double> ? denominator(s, high, h) : 0;
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (std::int64_t j = 0; j < S; ++j) {
        const double score = s[std::size_t(j)];
        if (!(score > -math::kInfinity<double>)) continue;
        const double share = softmax() ? std::exp(score - high) / sum
                                       : 1 / (1 + std::exp(-score - parameter(0, h, 0)));
        const float w = float(rounded(weight_of(rounded(share), h) * kept(rows, h, i, j)));
        const std::int64_t row = rows.kv_head * p.k.shape[2] + rows.first_key + j;
        for (std::int64_t c = 0; c < Dv; ++c)
          sums[std::size_t(c)] += w * float(get(p.v, row * Dv + c));
      }
      for (std::int64_t c = 0; c < Dv; ++c)
        out[std::size_t((rows.head * p.q.shape[2] + rows.first_query + i) * Dv + c)] =
            rounded(double(sums[std::size_t(c)]));
    }
  }

  GpuOptions o_;
  bool rounds_scores_ = true;  // of the unfused computation
  AttentionCase reference_;
  Context ctx_;
  AttentionProblem problem_;
  std::deque<GpuRows> rows_;  // o is the last
  std::deque<OwnedTensor> owned_;
  OwnedTensor workspace_;
};

}  // namespace quietformer::test
