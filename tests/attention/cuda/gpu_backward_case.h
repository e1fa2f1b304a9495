// Forward and backward of one attention problem on a GPU, the same in f64 on the CPU, and what
// 16-bit types cost a backward that is not fused.
#pragma once

#include "tests/attention/cuda/gpu_case.h"

namespace quietformer::test {

class GpuBackwardCase : public GpuCase {
 public:
  explicit GpuBackwardCase(const GpuOptions& options, bool deterministic = true)
      : GpuCase(options) {
    ctx_.deterministic = deterministic;
    const AttentionProblem& r = reference_.problem;
    for (std::int64_t i = 0; i < r.do_.count(); ++i)
      set(r.do_, i, round_to(o_.storage, get(r.do_, i)));
    out_gradient_ = GpuRows(o_.storage, r.do_.shape, o_.rows);
    out_gradient_.upload(r.do_);
    problem_.do_ = out_gradient_.view();
    for (const auto& [name, member] : kRows)
      if ((r.*member).shape.rank != 0) {
        GpuRows& rows = gradients_.emplace_back(o_.storage, (r.*member).shape, o_.rows);
        rows.to_device();
        problem_.*member = rows.view();
      }
    for (int k = 0; k < kMaxHeadParameters; ++k)
      if (const Tensor& host = r.d_head_parameters[std::size_t(k)])
        problem_.d_head_parameters[std::size_t(k)] = sum_like(host);
    if (r.dbias) problem_.dbias = sum_like(r.dbias);
    problem_.dscale = sum_like(r.dscale);
    backward_workspace_ = OwnedTensor(
        DType::u8, {workspace_bytes(cuda::flash_implementation(), ctx_, problem_)}, kGpu);
    problem_.workspace = backward_workspace_;
  }

  void backward() {
    cuda::flash_implementation().backward(ctx_, problem_);
    cuda::synchronize(kGpu);
    for (GpuRows& rows : gradients_) rows.from_device();
  }

  /// Words of all gradients after backward().
  std::vector<std::vector<std::uint16_t>> gradient_bits() const {
    std::vector<std::vector<std::uint16_t>> all;
    for (const GpuRows& rows : gradients_) all.push_back(rows.words());
    for (const Tensor& sum : sums()) all.push_back(words_of(sum));
    return all;
  }

  /// The twofold rule for every gradient. For those that are sums over rows or elements also four
  /// times the deviation that independent roundings of their terms would have.
  ///
  /// An unfused computation may round scores or, as PyTorch under autocast, leave them in f32.
  /// Where few rows count, its largest error is a matter of luck (that of 1 - weight, the weight
  /// rounded near 1), so a gradient that fails by the first is held against the second, too.
  void expect_correct_gradients() {
    reference_.forward();
    reference_.backward();
    const AttentionProblem& r = reference_.problem;
    const Unfused unfused = unfused_gradients();
    std::size_t at = 0;
    for (const auto& [name, member] : kRows) {
      if ((r.*member).shape.rank == 0) continue;
      const GpuRows& found = gradients_[at];
      const std::vector<double>& other = unfused.rows[index_of(name)];
      ASSERT_TRUE(found.intact()) << "written outside of " << name;
      double error = 0, allowed = largest_error(other, r.*member);
      for (std::int64_t i = 0; i < (r.*member).count(); ++i) {
        const double exact = get(r.*member, i), value = found.value(i);
        ASSERT_TRUE(std::isfinite(value)) << name << ", element " << i << ": " << value;
        error = std::max(error, std::abs(value - exact));
      }
      if (error > 2 * allowed + 1e-5) {
        rounds_scores_ = false;
        const Unfused unrounded = unfused_gradients();
        rounds_scores_ = true;
        allowed = std::max(allowed, largest_error(unrounded.rows[index_of(name)], r.*member));
      }
      ASSERT_TRUE(std::isfinite(allowed)) << name << " of the unfused computation";
      EXPECT_LE(error, 2 * allowed + jumps(r.*member) + 1e-5)
          << name << "; the unfused computation has " << allowed;
      ++at;
    }
    for (int k = 0; k < kMaxHeadParameters; ++k)
      expect_sum("gradient of head parameter " + std::to_string(k),
                 problem_.d_head_parameters[std::size_t(k)], r.d_head_parameters[std::size_t(k)],
                 unfused.parameters[std::size_t(k)]);
    expect_sum("dbias", problem_.dbias, r.dbias, unfused.bias);
    expect_sum("dscale", problem_.dscale, r.dscale, unfused.scale);
  }

 private:
  static constexpr std::pair<const char*, Tensor AttentionProblem::*> kRows[] = {
      {"dq", &AttentionProblem::dq},
      {"dk", &AttentionProblem::dk},
      {"dv", &AttentionProblem::dv},
      {"dq2", &AttentionProblem::dq2},
      {"dk2", &AttentionProblem::dk2}};
  static int index_of(std::string_view name) {
    int i = 0;
    while (name != kRows[i].first) ++i;
    return i;
  }

  static double largest_error(const std::vector<double>& found, const Tensor& exact) {
    double error = 0;
    for (std::int64_t i = 0; i < exact.count(); ++i)
      error = std::max(error, std::abs(found[std::size_t(i)] - get(exact, i)));
    return error;
  }

  /// Sums, and of the squares of their terms.
  struct Sums {
    std::vector<double> values, squares;
    explicit Sums(std::int64_t count = 0)
        : values(std::size_t(count), 0.0), squares(std::size_t(count), 0.0) {}
    void add(std::int64_t at, double term, double size) {
      values[std::size_t(at)] += term;
      squares[std::size_t(at)] += size * size;
    }
  };
  struct Unfused {
    std::vector<double> rows[5];
    std::array<Sums, kMaxHeadParameters> parameters;
    Sums bias, scale;
  };

  Tensor sum_like(const Tensor& host) {
    return owned_.emplace_back(DType::f32, host.shape, kGpu).view();
  }
  std::vector<Tensor> sums() const {
    std::vector<Tensor> all(problem_.d_head_parameters.begin(), problem_.d_head_parameters.end());
    all.push_back(problem_.dbias);
    all.push_back(problem_.dscale);
    std::erase_if(all, [](const Tensor& tensor) { return !tensor; });
    return all;
  }

  /// Where operands are rounded, other weights are held by a clip than in exact arithmetic, and
  /// gradients jump by a part of their size (a large one at the upper end); the unfused computation
  /// jumps elsewhere. What is left to see is that it is the right gradient: the kernels are those
  /// of dot, which keep the rule.
  double jumps(const Tensor& exact) const {
    return clips() && rounds_operands() ? 0.75 * max_abs(exact) : 0;
  }

  double unit_roundoff() const { return o_.storage == DType::bf16 ? 0x1p-8 : 0x1p-11; }

  void expect_sum(const std::string& name, const Tensor& there, const Tensor& reference,
                  const Sums& unfused) const {
    if (!there) return;
    const OwnedTensor host(DType::f32, there.shape);
    cuda::copy(host, there);
    const double jump = jumps(reference);
    double allowed = 0;
    for (std::int64_t i = 0; i < reference.count(); ++i)
      allowed = std::max(allowed, std::abs(unfused.values[std::size_t(i)] - get(reference, i)));
    for (std::int64_t i = 0; i < reference.count(); ++i) {
      const double exact = get(reference, i), found = get(host, i),
                   noise = 4 * unit_roundoff() * std::sqrt(unfused.squares[std::size_t(i)]);
      ASSERT_TRUE(std::isfinite(found)) << name << ", element " << i << ": " << found;
      ASSERT_LE(std::abs(found - exact), 2 * allowed + noise + jump + 1e-5)
          << name << ", element " << i << ": " << found << ", expected " << exact
          << "; the unfused computation has " << allowed << ", its terms " << noise;
    }
  }

  Unfused unfused_gradients() const {
    const AttentionProblem& p = reference_.problem;
    Unfused u;
    for (const auto& [name, member] : kRows)
      u.rows[index_of(name)].assign(std::size_t(std::max<std::int64_t>((p.*member).count(), 0)),
                                    0.0);
    for (Sums& parameter : u.parameters) parameter = Sums(p.heads());
    u.bias = Sums(p.dbias ? p.dbias.count() : 0);
    u.scale = Sums(1);
    for_each_head([&](const SequenceRows& s, std::int64_t h) { unfused_gradients(s, h, u); });
    // The operands' rows, once all that sums up to their gradients is there.
    finish_rows(p.q, u.rows[0]);
    finish_rows(p.k, u.rows[1]);
    for (double& value : u.rows[2]) value = rounded(value);
    if (p.dq2.shape.rank != 0) finish_rows(p.q2, u.rows[3]), finish_rows(p.k2, u.rows[4]);
    return u;
  }

  /// Rounds, and differentiates the norm of cosine.
  void finish_rows(const Tensor& x, std::vector<double>& gradient) const {
    const std::int64_t size = x.shape[3] / o_.groups;
    for (double& value : gradient) value = rounded(value);
    if (o_.score != Score::cosine) return;
    for (std::int64_t at = 0; at < x.count(); at += size) {
      double square = 0, product = 0;
      for (std::int64_t c = at; c < at + size; ++c) square += std::pow(get(x, c), 2);
      const double norm = std::max(std::sqrt(square), 1e-12);
      for (std::int64_t c = at; c < at + size; ++c)
        product += rounded(get(x, c) / norm) * gradient[std::size_t(c)];
      for (std::int64_t c = at; c < at + size; ++c)
        gradient[std::size_t(c)] =
            rounded((gradient[std::size_t(c)] - rounded(get(x, c) / norm) * product) / norm);
    }
  }

  void unfused_gradients(const SequenceRows& rows, std::int64_t h, Unfused& u) const {
    const AttentionProblem& p = reference_.problem;
    const std::int64_t D = p.q.shape[3], Dv = p.v.shape[3], S = rows.keys;
    const bool two = p.score == Score::piecewise;
    const std::vector<float> q[2] = {operand(p.q, rows.head), operand(two ? p.q2 : p.q, rows.head)},
                             k[2] = {operand(p.k, rows.kv_head),
                                     operand(two ? p.k2 : p.k, rows.kv_head)};
    std::vector<double> s(static_cast<std::size_t>(S)), products(s), shares(s), dweights(s);
    std::vector<float> v(static_cast<std::size_t>(Dv)), g(v), o(v);
    for (std::int64_t i = 0; i < rows.queries; ++i) {
      const std::int64_t row = rows.first_query + i, out = rows.head * p.q.shape[2] + row;
      for (std::int64_t c = 0; c < Dv; ++c) g[std::size_t(c)] = float(get(p.do_, out * Dv + c));
      const auto far = [&](std::int64_t j) {
        return two && i + S - rows.queries - j >= p.threshold ? 1 : 0;
      };
      double high = -math::kInfinity<double>;
      for (std::int64_t j = 0; j < S; ++j) {
        products[std::size_t(j)] =
            double(dot(q[far(j)].data() + row * D, k[far(j)].data() + (rows.first_key + j) * D, D));
        s[std::size_t(j)] = score(rows, h, i, j, products[std::size_t(j)]);
        high = std::max(high, s[std::size_t(j)]);
      }
      if (!(high > -math::kInfinity<double>)) continue;
      const double sum = softmax() ? denominator(s, high, h) : 0;
      std::fill(o.begin(), o.end(), 0.0f);
      for (std::int64_t j = 0; j < S; ++j) {
        const double score = s[std::size_t(j)];
        double &share = shares[std::size_t(j)], &dw = dweights[std::size_t(j)];
        share = dw = 0;
        if (!(score > -math::kInfinity<double>)) continue;
        share = rounded(softmax() ? std::exp(score - high) / sum
                                  : 1 / (1 + std::exp(-score - parameter(0, h, 0))));
        const std::int64_t at = (rows.kv_head * p.k.shape[2] + rows.first_key + j) * Dv;
        for (std::int64_t c = 0; c < Dv; ++c) v[std::size_t(c)] = float(get(p.v, at + c));
        const double keep = kept(rows, h, i, j), dropped = rounded(weight_of(share, h) * keep);
        dw = rounded(rounded(double(dot(g.data(), v.data(), Dv))) * keep);
        for (std::int64_t c = 0; c < Dv; ++c) {
          u.rows[2][std::size_t(at + c)] += dropped * double(g[std::size_t(c)]);
          o[std::size_t(c)] += float(dropped) * v[std::size_t(c)];
        }
      }
      double delta = 0, delta_squares = 0;
      const auto add_to_delta = [&](double term) {
        delta += term;
        delta_squares += term * term;
      };
      if (clips()) {
        for (std::int64_t j = 0; j < S; ++j) {
          dweights[std::size_t(j)] *= slope(shares[std::size_t(j)], h);
          add_to_delta(shares[std::size_t(j)] * dweights[std::size_t(j)]);
        }
      } else {  // what forward saves is o, rounded (DeltaRule::output_dot)
        for (std::int64_t c = 0; c < Dv; ++c)
          add_to_delta(double(g[std::size_t(c)]) * rounded(double(o[std::size_t(c)])));
      }
      double expected = 0;
      for (std::int64_t j = 0; j < S; ++j) {
        const double w = shares[std::size_t(j)], dw = dweights[std::size_t(j)];
        if (!(s[std::size_t(j)] > -math::kInfinity<double>)) continue;
        const double ds = rounded(softmax() ? w * (dw - delta) : w * (1 - w) * dw),
                     dproduct = rounded(ds * p.scale);
        const int f = far(j);
        const std::int64_t q_at = out * D,
                           k_at = (rows.kv_head * p.k.shape[2] + rows.first_key + j) * D;
        std::vector<double>&dq = u.rows[f ? 3 : 0], &dk = u.rows[f ? 4 : 1];
        for (std::int64_t c = 0; c < D; ++c) {
          dq[std::size_t(q_at + c)] +=
              dproduct * double(k[f][std::size_t((rows.first_key + j) * D + c)]);
          dk[std::size_t(k_at + c)] += dproduct * double(q[f][std::size_t(row * D + c)]);
        }
        if (p.dbias) u.bias.add(bias_index(rows.index, h, i, j), ds, w * dw);
        if (!softmax()) u.parameters[0].add(h, ds, ds);
        if (clips()) {
          const double size = dw / (parameter(1, h, 1) - parameter(0, h, -0.03));
          u.parameters[0].add(h, size * (1 - w), size);
          u.parameters[1].add(h, size * w, size * w);
        }
        expected += w * products[std::size_t(j)];
        u.scale.add(0, ds * rounded(products[std::size_t(j)]), ds * products[std::size_t(j)]);
      }
      const double noise = std::sqrt(delta_squares);
      u.scale.add(0, 0, noise * expected);
      if (!softmax() || clips()) continue;
      u.parameters[0].add(h, -std::exp(-high) / sum * delta, std::exp(-high) / sum * noise);
      const double share = std::exp(parameter(1, h, -math::kInfinity<double>) - high) / sum;
      u.parameters[1].add(h, -share * delta, share * noise);
    }
  }

  /// d weight / d share: 0 where a clip holds the weight.
  double slope(double share, std::int64_t h) const {
    const double weight = unclipped(share, h), gamma = parameter(0, h, -0.03),
                 zeta = parameter(1, h, 1);
    return weight >= 0 && (weight <= 1 || zeta == 1) ? zeta - gamma : 0;
  }

  std::int64_t bias_index(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const Shape& shape = reference_.problem.bias.shape;
    const auto at = [&](int dim, std::int64_t index) { return shape[dim] == 1 ? 0 : index; };
    return ((at(0, b) * shape[1] + at(1, h)) * shape[2] + at(2, i)) * shape[3] + at(3, j);
  }

  GpuRows out_gradient_;
  std::deque<GpuRows> gradients_;
  OwnedTensor backward_workspace_;
};

}  // namespace quietformer::test
