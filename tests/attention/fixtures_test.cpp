// Every case of attention.json, found at run time: all outputs and all gradients against float64
// autograd.
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "attention/attention.h"
#include "tests/attention/device_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/safetensors.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using nlohmann::json;
using test::SafetensorsFile;

struct FixtureRun {
  const json& meta;
  const SafetensorsFile& file;
  DType dtype;
  const AttentionImplementation& implementation;
  Context ctx{};
  AttentionProblem problem{};
  std::vector<OwnedTensor> owned{};
  test::GpuCopies copies{};

  std::string path(const std::string& name) const {
    return meta.at("name").get<std::string>() + "/" + name;
  }
  bool has(const std::string& name) const { return file.has(path(name)); }

  Tensor keep(OwnedTensor tensor) { return owned.emplace_back(std::move(tensor)); }
  /// The input of this name in the tested type; masks stay bytes. Absent if the case has none.
  Tensor input(const std::string& name) {
    if (!has(name)) return {};
    OwnedTensor tensor = file.read(path(name));
    return keep(tensor.view().dtype == DType::u8 ? std::move(tensor)
                                                 : test::copy_as(tensor, dtype));
  }
  Tensor output(const Shape& shape) { return shape.rank == 0 ? Tensor() : keep({dtype, shape}); }

  void set_up() {
    AttentionProblem& p = problem;
    p.q = input("q"), p.k = input("k"), p.v = input("v"), p.q2 = input("q2"), p.k2 = input("k2");
    p.do_ = input("do"), p.bias = input("bias"), p.mask = input("mask");
    p.alibi_slopes = input("alibi_slopes");
    p.score = find_score(meta.at("score").get<std::string>());
    p.scale = meta.at("scale");
    p.groups = meta.at("groups");
    p.threshold = meta.at("dist_threshold");
    p.causal = meta.at("causal");
    p.window = {meta.at("window")[0], meta.at("window")[1]};
    const NormalizerInfo& info = find_normalizer(meta.at("normalizer").get<std::string>());
    p.normalizer = info.name;
    for (std::size_t k = 0; k < info.parameters.size(); ++k) {
      const std::string name(info.parameters[k].name);
      if (has(name)) {
        p.head_parameters[k] = input(name);
        p.d_head_parameters[k] = output(p.head_parameters[k].shape);
      } else if (meta.contains(name)) {
        p.head_parameters[k] = output({p.heads()});
        test::fill(p.head_parameters[k], meta.at(name));
      }
    }
    const Shape rows{p.q.shape[0], p.q.shape[1], p.q.shape[2]};
    p.o = output(p.do_.shape);
    p.row_state = output(rows);
    if (info.row_normalised) p.lse_scores = output(rows);
    p.total_attention = output({p.q.shape[0], p.q.shape[1], p.k.shape[2]});
    p.dq = output(p.q.shape), p.dk = output(p.k.shape), p.dv = output(p.v.shape);
    p.dq2 = output(p.q2.shape), p.dk2 = output(p.k2.shape), p.dbias = output(p.bias.shape);
    p.workspace = keep({DType::u8, {workspace_bytes(implementation, ctx, p)}});
    run(Direction::forward);
    run(Direction::backward);
  }

  void run(Direction direction) {
    if (test::gpu_under_test())
      copies.run(implementation, ctx, problem, direction);
    else if (direction == Direction::forward)
      implementation.forward(ctx, problem);
    else
      implementation.backward(ctx, problem);
  }

  /// Compares every result that the file holds; returns how many there were.
  int compare(double tolerance) {
    const AttentionProblem& p = problem;
    std::vector<std::pair<std::string, Tensor>> results{{"o", p.o},
                                                        {"lse_scores", p.lse_scores},
                                                        {"total_attention", p.total_attention},
                                                        {"dq", p.dq},
                                                        {"dk", p.dk},
                                                        {"dv", p.dv},
                                                        {"dq2", p.dq2},
                                                        {"dk2", p.dk2},
                                                        {"dbias", p.dbias}};
    const NormalizerInfo& info = find_normalizer(p.normalizer);
    for (std::size_t k = 0; k < info.parameters.size(); ++k)
      results.emplace_back("d" + std::string(info.parameters[k].name), p.d_head_parameters[k]);
    int compared = 0;
    for (const auto& [name, actual] : results) {
      if (!has(name)) continue;
      ++compared;
      EXPECT_TRUE(test::close(actual, file.read(path(name)), tolerance)) << path(name);
    }
    return compared;
  }

  int results_in_file() const {
    int count = 0;
    for (const std::string& name : file.names()) {
      const std::string prefix = path("");
      if (name.compare(0, prefix.size(), prefix) != 0) continue;
      const std::string tail = name.substr(prefix.size());
      count += tail == "o" || tail == "lse_scores" || tail == "total_attention" ||
               (tail[0] == 'd' && tail != "do");
    }
    return count;
  }
};

void run_all(const AttentionImplementation& implementation, DType dtype, double tolerance) {
  const std::string folder = test::fixtures_folder();
  std::ifstream list(folder + "/attention.json");
  ASSERT_TRUE(list) << "no " << folder << "/attention.json";
  const json cases = json::parse(list);
  const SafetensorsFile file(folder + "/attention.safetensors");
  std::cout << "fixtures: " << cases.size() << " cases from " << folder << std::endl;
  ASSERT_GT(cases.size(), 0u) << folder;
  for (const json& meta : cases) {
    FixtureRun run{meta, file, dtype, implementation};
    SCOPED_TRACE(meta.at("name").get<std::string>());
    run.set_up();
    EXPECT_EQ(run.compare(tolerance), run.results_in_file());
  }
}

class AttentionFixtures : public testing::TestWithParam<const AttentionImplementation*> {};

TEST_P(AttentionFixtures, Float) {
  run_all(*GetParam(), DType::f32, 2e-5);
}

// The files hold float64 results rounded to float32.
TEST_P(AttentionFixtures, Double) {
  run_all(*GetParam(), DType::f64, 1e-7);
}

INSTANTIATE_TEST_SUITE_P(All, AttentionFixtures, testing::ValuesIn(implementations()),
                         [](const auto& info) { return std::string(info.param->name()); });

}  // namespace
}  // namespace quietformer
