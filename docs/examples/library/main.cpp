// Attention and a layer from a program of your own, forward and backward.
#include <quietformer/attention/attention.h>
#include <quietformer/core/buffer.h>
#include <quietformer/layers/self_attention.h>

#include <cmath>
#include <cstdio>

namespace qf = quietformer;

// Numbers in [-1, 1), the same on every machine.
static void fill(const qf::Tensor& tensor, std::uint64_t seed) {
  const qf::RandomKey key = qf::stream_key(seed, qf::RandomPurpose::generation, 0, 0);
  for (std::int64_t i = 0; i < tensor.count(); ++i)
    tensor.as<double>()[i] = 2.0 * qf::uniform24(qf::philox(key, i, 0, 0, 0).word[0]) - 1.0;
}

static double sum(const qf::Tensor& tensor) {
  double total = 0;
  for (std::int64_t i = 0; i < tensor.count(); ++i) total += tensor.as<double>()[i];
  return total;
}

// Causal attention of 4 query heads that share 2 key heads; each row also has softmax-plus-one's
// constant 1 and a learned sink in its denominator. Returns whether the results are as they should.
static bool attention(const qf::Context& ctx) {
  constexpr int B = 1, H = 4, Hk = 2, T = 6, D = 8;
  const auto real = [](const qf::Shape& shape) { return qf::OwnedTensor(qf::DType::f64, shape); };
  const auto q = real({B, H, T, D}), k = real({B, Hk, T, D}), v = real({B, Hk, T, D});
  const auto o = real({B, H, T, D}), row_state = real({B, H, T}), sink_mass = real({B, H, T});
  const auto n = real({H}), sink = real({H});
  fill(q, 1), fill(k, 2), fill(v, 3), fill(sink, 4);
  for (int h = 0; h < H; ++h) n.as<double>()[h] = 1;
  qf::OwnedTensor take_part(qf::DType::u8, {B, T});  // a padded sequence: token 0 is not real
  for (int t = 1; t < T; ++t) take_part.as<std::uint8_t>()[t] = 1;

  qf::AttentionProblem problem;
  problem.q = q, problem.k = k, problem.v = v, problem.o = o;
  problem.row_state = row_state, problem.sink_mass = sink_mass;
  problem.scale = qf::default_scale(problem.score, D);
  problem.causal = true;
  problem.key_padding = take_part;
  problem.head_parameters = {n, sink};  // softmax_n's, in the order of normalizers()

  // Backward of the loss "sum of all outputs": its gradient with respect to every output is 1.
  const auto d_o = real({B, H, T, D}), d_sink = real({H});
  const auto dq = real({B, H, T, D}), dk = real({B, Hk, T, D}), dv = real({B, Hk, T, D});
  for (std::int64_t i = 0; i < d_o.view().count(); ++i) d_o.as<double>()[i] = 1;
  problem.do_ = d_o, problem.dq = dq, problem.dk = dk, problem.dv = dv;
  problem.d_head_parameters = {qf::Tensor(), d_sink};

  const qf::AttentionImplementation& implementation = qf::choose("auto", problem);
  const qf::OwnedTensor workspace(qf::DType::u8,
                                  {qf::workspace_bytes(implementation, ctx, problem)});
  problem.workspace = workspace;
  implementation.forward(ctx, problem);
  implementation.backward(ctx, problem);

  // Query 0 sees key 0 alone, and that one is hidden: everything goes to the sink.
  double row = 0;
  for (int d = 0; d < D; ++d) row += std::abs(o.as<double>()[d]) + std::abs(dq.as<double>()[d]);
  std::printf("row without keys: output and gradient %g, sink mass %g\n", row,
              sink_mass.as<double>()[0]);

  const double before = sum(o), gradient = d_sink.as<double>()[0], step = 1e-6;
  sink.as<double>()[0] += step;
  implementation.forward(ctx, problem);
  const double slope = (sum(o) - before) / step;
  std::printf("gradient of head 0's sink: %.4f, by differences %.4f\n", gradient, slope);
  return row == 0 && sink_mass.as<double>()[0] == 1 && std::abs(gradient - slope) < 1e-4;
}

// A self-attention layer: parameters and activations live in arenas that are declared, then
// committed; after that nothing allocates.
static void layer(const qf::Context& ctx) {
  qf::ModelConfig model;
  model.dim = 32, model.heads = 4, model.kv_heads = 2, model.context = 16;
  model.position = "none";
  qf::resolve(model);
  qf::AttentionConfig config;
  config.n = qf::HeadParameterConfig::learned(1.0);

  const qf::BatchShape batch{2, 16};
  qf::ParameterList parameters(qf::DType::f64);
  qf::SelfAttention layer(parameters, "attention", model, config, 0, nullptr);
  qf::Arena activations("activations");
  layer.declare(ctx, activations, batch, qf::Purpose::training);
  const qf::Shape shape{batch.batch, batch.tokens, model.dim};
  const qf::Slot x = activations.declare("x", qf::DType::f64, shape);
  const qf::Slot y = activations.declare("y", qf::DType::f64, shape);
  const qf::Slot dx = activations.declare("dx", qf::DType::f64, shape);
  parameters.commit();
  parameters.initialise(/*seed=*/1);
  activations.commit();

  fill(x, 5);
  layer.forward(ctx, y, x);
  layer.backward(ctx, dx, /*dy=*/y);  // of the loss sum(y^2) / 2
  for (const qf::Parameter& parameter : parameters.all())
    std::printf("%-24s sum of gradients %9.5f\n", parameter.name.c_str(), sum(parameter.grad));
}

int main() {
  try {
    qf::Context ctx;
    ctx.threads = 2;
    const bool good = attention(ctx);
    layer(ctx);
    return good ? 0 : 1;
  } catch (const qf::Error& error) {  // one line: what was found and what was expected
    std::fprintf(stderr, "example: %s\n", error.what());
    return error.exit_status();
  }
}
