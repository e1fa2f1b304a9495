// Every way to describe an impossible problem is one InputError that names the culprit and both
// values.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "attention/l2norm.h"
#include "attention/softmax_n.h"
#include "tests/attention/attention_case.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;

/// The message of the InputError that f throws; empty when it throws none.
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

struct BadCase {
  std::string expected;  // the whole message, or its beginning up to a "*"
  std::function<void(AttentionCase&)> spoil;
  CaseOptions options{};
};

CaseOptions with(const std::function<void(CaseOptions&)>& edit) {
  CaseOptions o;
  edit(o);
  return o;
}

std::vector<BadCase> shapes() {
  return {
      {"attention q: shape (2, 2, 16), expected rank 4 (set_inputs takes lower ranks)",
       [](AttentionCase& c) {
         c.problem.q = c.problem.q.reshape({2, 2, 16});
       }},
      {"attention q: shape (), expected rank 4 (set_inputs takes lower ranks)",
       [](AttentionCase& c) { c.problem.q = {}; }},
      {"attention k: shape (2, 2, 5, 3), expected (2, 2, 5, 4)",
       [](AttentionCase& c) { c.problem.k = c.problem.k.slice(3, 0, 3); }},
      {"attention k: shape (1, 2, 5, 4), expected (2, 2, 5, 4)",
       [](AttentionCase& c) { c.problem.k = c.problem.k.slice(0, 0, 1); }},
      {"attention v: shape (2, 2, 4, 3), expected (2, 2, 5, 3)",
       [](AttentionCase& c) { c.problem.v = c.problem.v.slice(2, 0, 4); }},
      {"attention k: 2 key heads do not divide 3 query heads",
       [](AttentionCase& c) {
         c.problem.q = c.make(DType::f64, {2, 3, 4, 4});
       }},
      {"attention q: type i64, expected f32, f64 or bf16 (f16 on a GPU)",
       [](AttentionCase& c) { c.problem.q = c.make(DType::i64, c.problem.q.shape); }},
      {"attention v: type f32, expected f64",
       [](AttentionCase& c) { c.problem.v = c.make(DType::f32, c.problem.v.shape); }},
      {"attention q: inner stride 4, expected 1",
       [](AttentionCase& c) {
         c.problem.q = c.make(DType::f64, {2, 2, 4, 4}).transpose(2, 3);
       }},
      {"attention k: stride -4 of dimension 2, expected no negative stride",
       [](AttentionCase& c) { c.problem.k.stride[2] = -4; }},
      {"attention v: has a shape but no memory",
       [](AttentionCase& c) { c.problem.v.data = nullptr; }},
      {"attention k: not on the device of q",
       [](AttentionCase& c) { c.problem.k.device.type = DeviceType::cuda; }},
      {"attention o: shape (2, 2, 4, 2), expected (2, 2, 4, 3)",
       [](AttentionCase& c) {
         c.problem.o = c.make(DType::f64, {2, 2, 4, 2});
       }},
      {"attention dk: stride 8 of dimension 1, expected at least 20: elements overlap",
       [](AttentionCase& c) { c.problem.dk.stride[1] = 8; }},
      {"attention lse: shape (2, 2, 5), expected (2, 2, 4)",
       [](AttentionCase& c) {
         c.problem.lse = c.make(DType::f64, {2, 2, 5});
       }},
      {"attention row_sum: not contiguous",
       [](AttentionCase& c) {
         c.problem.row_sum = c.make(DType::f64, {2, 4, 2}).transpose(1, 2);
       }},
      {"attention dscale: shape (2), expected (1)",
       [](AttentionCase& c) { c.problem.dscale = c.make(DType::f64, {2}); }},
  };
}

std::vector<BadCase> options() {
  return {
      {"attention scale: 0, expected a finite number other than 0",
       [](AttentionCase& c) { c.problem.scale = 0; }},
      {"attention scale: nan*", [](AttentionCase& c) { c.problem.scale = NAN; }},
      {"attention groups: 2 with score dot, expected 1: it has no norms",
       [](AttentionCase& c) { c.problem.groups = 2; }},
      {"attention groups: 3 do not divide head dim 4",
       [](AttentionCase& c) { c.problem.groups = 3; },
       with([](CaseOptions& o) { o.score = Score::cosine; })},
      {"attention groups: 0 do not divide head dim 4",
       [](AttentionCase& c) { c.problem.groups = 0; },
       with([](CaseOptions& o) { o.score = Score::cosine; })},
      {"attention threshold: 3 with score dot, expected 0: it has one pair",
       [](AttentionCase& c) { c.problem.threshold = 3; }},
      {"attention q2, k2: score piecewise takes both", [](AttentionCase& c) { c.problem.k2 = {}; },
       with([](CaseOptions& o) { o.score = Score::piecewise; })},
      {"attention q2, k2: score dot takes neither",
       [](AttentionCase& c) { c.problem.q2 = c.problem.q; }},
      {"attention dq2, dk2: score dot takes neither",
       [](AttentionCase& c) { c.problem.dk2 = c.problem.dk; }},
      {"attention window: [-2, 0], expected -1 (unlimited) or more",
       [](AttentionCase& c) {
         c.problem.window = {-2, 0};
       }},
      {"attention mask: shape (2, 1, 4, 4), expected (2|1, 2|1, 4|1, 5|1)",
       [](AttentionCase& c) {
         c.problem.mask = c.make(DType::u8, {2, 1, 4, 4});
       }},
      {"attention mask: type f64, expected u8",
       [](AttentionCase& c) {
         c.problem.mask = c.make(DType::f64, {2, 1, 4, 5});
       }},
      {"attention bias: shape (4, 5), expected (2|1, 2|1, 4|1, 5|1)",
       [](AttentionCase& c) {
         c.problem.bias = c.make(DType::f64, {4, 5});
       }},
      {"attention dbias: there is no bias",
       [](AttentionCase& c) {
         c.problem.dbias = c.make(DType::f64, {1, 1, 4, 5});
       }},
      {"attention dbias: shape (1, 1, 1, 5), expected (1, 1, 4, 5)",
       [](AttentionCase& c) {
         c.problem.dbias = c.make(DType::f64, {1, 1, 1, 5});
       },
       with([](CaseOptions& o) {
         o.bias = {1, 1, 4, 5};
       })},
      {"attention key_padding: shape (2, 4), expected (2, 5)",
       [](AttentionCase& c) {
         c.problem.key_padding = c.make(DType::u8, {2, 4});
       }},
      {"attention alibi_slopes: shape (3), expected (2)",
       [](AttentionCase& c) { c.problem.alibi_slopes = c.make(DType::f64, {3}); }},
      {"attention dropout: probability 1, expected 0 <= p < 1",
       [](AttentionCase& c) { c.problem.dropout.probability = 1; }},
      {"attention dropout: probability nan, expected 0 <= p < 1",
       [](AttentionCase& c) { c.problem.dropout.probability = NAN; }},
  };
}

std::vector<BadCase> normalizer_cases() {
  const auto sigmoid = with([](CaseOptions& o) { o.normalizer = "sigmoid"; });
  const auto clipped = with([](CaseOptions& o) {
    o.normalizer = "clipped_softmax", o.parameters = {-0.1, 1};
  });
  const auto n = with([](CaseOptions& o) { o.parameters = {1}; });
  const auto sink = with([](CaseOptions& o) { o.parameters = {1, 0}; });
  return {
      {"attention normalizer 'softmax': unknown, expected one of softmax_n*",
       [](AttentionCase& c) { c.problem.normalizer = "softmax"; }},
      {"attention n: -0.5 for head 1, expected at least 0",
       [](AttentionCase& c) { test::set(c.problem.head_parameters[0], 1, -0.5); }, n},
      {"attention n: nan for head 0, expected at least 0",
       [](AttentionCase& c) { test::set(c.problem.head_parameters[0], 0, NAN); }, n},
      {"attention sink_logit: nan for head 1, expected at least -inf",
       [](AttentionCase& c) { test::set(c.problem.head_parameters[1], 1, NAN); }, sink},
      {"attention n: shape (1), expected (2)",
       [](AttentionCase& c) { c.problem.head_parameters[0] = c.make(DType::f64, {1}); }},
      {"attention n: type f32, expected f64",
       [](AttentionCase& c) { c.problem.head_parameters[0] = c.make(DType::f32, {2}); }},
      {"attention head parameter 1: sigmoid has 1",
       [](AttentionCase& c) { c.problem.head_parameters[1] = c.make(DType::f64, {2}); }, sigmoid},
      {"attention gamma: 0.01 for head 1, expected at most 0",
       [](AttentionCase& c) { test::set(c.problem.head_parameters[0], 1, 0.01); }, clipped},
      {"attention zeta: 0.5 for head 0, expected at least 1",
       [](AttentionCase& c) { test::set(c.problem.head_parameters[1], 0, 0.5); }, clipped},
      {"attention lse: sigmoid has no row denominator",
       [](AttentionCase& c) {
         c.problem.lse = c.make(DType::f64, {2, 2, 4});
       },
       sigmoid},
      {"attention lse_scores: sigmoid has no row denominator",
       [](AttentionCase& c) {
         c.problem.lse_scores = c.make(DType::f64, {2, 2, 4});
       },
       sigmoid},
      {"attention sink_mass: sigmoid has no row denominator",
       [](AttentionCase& c) {
         c.problem.sink_mass = c.make(DType::f64, {2, 2, 4});
       },
       sigmoid},
  };
}

std::vector<BadCase> packed_cases() {
  const auto packed = with([](CaseOptions& o) { o.queries = {1, 3}, o.keys = {2, 2}; });
  return {
      {"attention cu_seqlens_q: from 0 to 3, expected from 0 to 4",
       [](AttentionCase& c) { test::set(c.problem.cu_seqlens_q, 2, 3); }, packed},
      {"attention cu_seqlens_q: 1 after 5, expected to grow",
       [](AttentionCase& c) {
         test::set(c.problem.cu_seqlens_q, 1, 5), test::set(c.problem.cu_seqlens_q, 2, 1);
       },
       packed},
      {"attention cu_seqlens_k: shape (), expected (B + 1)",
       [](AttentionCase& c) { c.problem.cu_seqlens_k = {}; }, packed},
      {"attention cu_seqlens_q: absent, but cu_seqlens_k is there",
       [](AttentionCase& c) { c.problem.cu_seqlens_q = {}; }, packed},
      {"attention cu_seqlens_k: type i64, expected i32",
       [](AttentionCase& c) { c.problem.cu_seqlens_k = c.make(DType::i64, {3}); }, packed},
      {"attention cu_seqlens_k: shape (2), expected (3)",
       [](AttentionCase& c) {
         c.problem.cu_seqlens_k = c.make(DType::i32, {2});
         test::set(c.problem.cu_seqlens_k, 0, 0), test::set(c.problem.cu_seqlens_k, 1, 4);
       },
       packed},
      {"attention weights: not available for packed sequences",
       [](AttentionCase& c) {
         c.problem.weights = c.make(DType::f64, {1, 2, 4, 4});
       },
       packed},
      {"attention mask: shape (2, 1, 2, 2), expected (2|1, 2|1, 3|1, 2|1)",
       [](AttentionCase& c) {
         c.problem.mask = c.make(DType::u8, {2, 1, 2, 2});
       },
       packed},
  };
}

TEST(BadInput, OneMessageNamesTheCulpritAndBothValues) {
  for (const auto& list : {shapes(), options(), normalizer_cases(), packed_cases()})
    for (const BadCase& bad : list) {
      AttentionCase c(bad.options);
      EXPECT_EQ(message_of([&] { check(c.problem); }), "") << bad.expected;
      bad.spoil(c);
      const std::string message = message_of([&] { check(c.problem); });
      if (bad.expected.back() == '*') {
        const std::string start = bad.expected.substr(0, bad.expected.size() - 1);
        EXPECT_EQ(message.substr(0, start.size()), start);
      } else {
        EXPECT_EQ(message, bad.expected);
      }
    }
}

TEST(BadInput, EachDirectionNeedsItsTensors) {
  const auto message = [](Direction direction, Tensor AttentionProblem::*missing) {
    AttentionCase c(CaseOptions{});
    c.problem.*missing = {};
    return message_of([&] { direction == Direction::forward ? c.forward() : c.backward(); });
  };
  EXPECT_EQ(message(Direction::forward, &AttentionProblem::o),
            "attention o: absent, forward writes it");
  EXPECT_EQ(message(Direction::backward, &AttentionProblem::do_),
            "attention do: absent, backward reads it");
  EXPECT_EQ(message(Direction::backward, &AttentionProblem::o),
            "attention o: absent, backward reads it");
  EXPECT_EQ(message(Direction::backward, &AttentionProblem::row_state),
            "attention row_state: absent, backward of softmax_n reads it");
  EXPECT_EQ(message(Direction::forward, &AttentionProblem::row_state), "");
}

TEST(BadInput, WorkspaceTooSmallOrMisaligned) {
  AttentionCase c(CaseOptions{});
  const Tensor whole = c.problem.workspace;
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    const std::int64_t needed = c.implementation().workspace_bytes(c.ctx, c.problem, direction);
    const auto run = [&] { direction == Direction::forward ? c.forward() : c.backward(); };
    c.problem.workspace = whole.slice(0, 0, needed);
    EXPECT_EQ(message_of(run), "");
    c.problem.workspace = whole.slice(0, 0, needed - 1);
    EXPECT_NE(message_of(run).find(CaseOptions().implementation + " needs"), std::string::npos);
  }
  c.problem.workspace = {};
  EXPECT_NE(message_of([&] { c.forward(); }).find("workspace: 0 bytes"), std::string::npos);
  const OwnedTensor larger(DType::u8, {whole.count() + 64});
  c.problem.workspace = larger.view().slice(0, 1, whole.count());
  EXPECT_NE(message_of([&] { c.forward(); }).find("64-byte aligned"), std::string::npos);
}

TEST(BadInput, UnknownNames) {
  AttentionCase c(CaseOptions{});
  EXPECT_EQ(message_of([] { find_score("cosin"); }),
            "attention score 'cosin': unknown, expected one of dot, cosine, piecewise");
  EXPECT_EQ(message_of([&] { choose("flesh", c.problem); }).substr(0, 40),
            "attention implementation 'flesh': unknow");
}

TEST(BadInput, RanksThatDoNotFit) {
  AttentionCase c(CaseOptions{});
  AttentionProblem p;
  AttentionViews views;
  views.q = c.problem.q.reshape({4, 4, 4});
  views.k = views.v = c.problem.k;
  EXPECT_NE(message_of([&] { set_inputs(p, views); }), "");
  views.q = c.problem.q;
  views.v = c.problem.v.reshape({4, 5, 3});
  EXPECT_EQ(message_of([&] { set_inputs(p, views); }),
            "attention v: shape (4, 5, 3), expected rank 4 like its fellows");
}

TEST(BadInput, StandaloneOperations) {
  const Context ctx;
  const OwnedTensor x(DType::f32, {2, 3}), y(DType::f32, {2, 3}), z(DType::f64, {2, 3});
  EXPECT_EQ(message_of([&] { softmax_n(ctx, y, x, -1, 0); }),
            "softmax_n: n = -1, expected at least 0");
  EXPECT_EQ(message_of([&] { softmax_n(ctx, y, x, NAN, 0); }),
            "softmax_n: n = nan, expected at least 0");
  EXPECT_EQ(message_of([&] { softmax_n(ctx, y, x, 1, 2); }),
            "softmax_n: dimension 2 of shape (2, 3)");
  EXPECT_NE(message_of([&] { softmax_n(ctx, z, x, 1, 0); }), "");
  EXPECT_EQ(message_of([&] { l2norm(ctx, y, x, 2); }),
            "l2norm: 2 groups do not divide the last dimension of (2, 3)");
}

}  // namespace
}  // namespace quietformer
