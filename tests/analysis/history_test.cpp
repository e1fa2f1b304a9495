#include "analysis/history.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/buffer.h"
#include "core/check.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "core/sealed_file.h"

namespace quietformer {
namespace {

class History : public testing::Test {
 protected:
  History() : folder_(std::filesystem::path(testing::TempDir()) / "quietformer_history") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~History() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  // Statistics of some tensor that depends on the step; "late" appears from step 20 on.
  static void log(StatisticsHistory& history, ActivationStatistics& statistics, int step) {
    OwnedTensor x(DType::f32, {2, 3, 8});
    for (int i = 0; i < 48; ++i) x.as<float>()[i] = std::sin(float(i * (step + 1)));
    statistics.begin_step();
    statistics.record(Context(), "blocks.0.attention.context", x);
    if (step >= 20) statistics.record(Context(), "late", x);
    statistics.end_step();
    const std::vector<WeightStatistics> weights{weight_statistics(Context(), "w.weight", x)};
    history.add(step, statistics.latest(), weights);
  }
  static ActivationStatistics statistics() {
    AnalysisConfig config;
    config.sites = {"**"};
    config.per_head = true;
    return ActivationStatistics(config, 4);
  }
  std::filesystem::path folder_;
};

const std::string kKurtosis = "activations/blocks.0.attention.context/kurtosis";
const std::string kHeads = "activations/blocks.0.attention.context/per_head/kurtosis";

TEST_F(History, WritesSelfDescribingDatasetsAndLoadsThem) {
  StatisticsHistory history;
  ActivationStatistics live = statistics();
  std::vector<double> kurtosis;
  for (int step : {0, 10, 20, 30}) {
    log(history, live, step);
    kurtosis.push_back(live.latest()[0].all.average(&SampleSums::kurtosis));
  }
  history.write(path("stats.h5"));

  const Hdf5Reader file(path("stats.h5"));
  EXPECT_EQ(std::get<std::string>(file.attributes("/").at("format")), "quietformer statistics");
  const OwnedTensor steps = file.read("/step");
  ASSERT_EQ(steps.view().shape, (Shape{4}));
  EXPECT_EQ(steps.as<std::int64_t>()[2], 20);
  const OwnedTensor values = file.read("/" + kKurtosis);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(values.as<double>()[i], kurtosis[i]);
  EXPECT_EQ(file.read("/" + kHeads).view().shape, (Shape{4, 4}));
  const auto attributes = file.attributes("/" + kHeads);
  EXPECT_EQ(std::get<std::vector<std::string>>(attributes.at("dimensions")),
            (std::vector<std::string>{"step", "head"}));
  EXPECT_NE(std::get<std::string>(attributes.at("description")), "");
  EXPECT_TRUE(file.contains("/weights/w.weight/kurtosis"));
  // Not recorded in the first two steps; nothing to compare outliers with in the first.
  const OwnedTensor late = file.read("/activations/late/mean");
  EXPECT_TRUE(std::isnan(late.as<double>()[1]) && !std::isnan(late.as<double>()[2]));
  const OwnedTensor sigma = file.read("/activations/blocks.0.attention.context/outliers_6_sigma");
  EXPECT_TRUE(std::isnan(sigma.as<double>()[0]) && sigma.as<double>()[1] == 0);

  const StatisticsHistory loaded = StatisticsHistory::load(path("stats.h5"));
  EXPECT_EQ(loaded.steps(), history.steps());
  EXPECT_EQ(loaded.series(kKurtosis), kurtosis);
  EXPECT_EQ(loaded.series(kHeads), history.series(kHeads));
  EXPECT_TRUE(loaded.series("activations/none/mean").empty());
  loaded.write(path("again.h5"));
  EXPECT_EQ(read_file(path("again.h5")), read_file(path("stats.h5")));
}

TEST_F(History, TheFinalPassIsAGroupThatLoadingPassesOver) {
  StatisticsHistory history;
  ActivationStatistics live = statistics();
  log(history, live, 10);
  history.write(path("before.h5"));
  FinalResults final;
  final.sequences = 2;
  final.sites = {{"blocks.0.output", {}, {1, NAN, 3}, {4, 5}}};
  final.outliers = {4, {0, 3}, {0, 0.5}, {1}};
  history.write(path("stats.h5"), &final);
  const Hdf5Reader file(path("stats.h5"));
  EXPECT_EQ(std::get<std::int64_t>(file.attributes("/final").at("sequences")), 2);
  const OwnedTensor tokens = file.read("/final/activations/blocks.0.output/infinity_norm_by_token");
  ASSERT_EQ(tokens.view().shape, (Shape{3}));
  EXPECT_EQ(tokens.as<double>()[2], 3);
  EXPECT_EQ(
      file.read("/final/activations/blocks.0.output/infinity_norm_by_channel").as<double>()[1], 5);
  EXPECT_EQ(file.read("/final/outlier_dimensions/layers").as<std::int64_t>()[1], 3);
  EXPECT_EQ(file.read("/final/outlier_dimensions/positions").as<double>()[1], 0.5);
  StatisticsHistory::load(path("stats.h5")).write(path("again.h5"));
  EXPECT_EQ(read_file(path("again.h5")), read_file(path("before.h5")));
}

TEST_F(History, ResumedHistoryEqualsAnUnbrokenOne) {
  StatisticsHistory whole, broken;
  ActivationStatistics live = statistics(), first = statistics(), resumed = statistics();
  for (int step : {0, 10, 20, 30, 40}) log(whole, live, step);
  for (int step : {0, 10}) log(broken, first, step);
  const std::vector<NamedValue> checkpoint = first.state();
  log(broken, first, 20);  // past the checkpoint
  broken.write(path("stats.h5"));
  StatisticsHistory again = StatisticsHistory::load(path("stats.h5"));
  again.cut_back(10);
  EXPECT_EQ(again.steps().size(), 2u);
  EXPECT_TRUE(again.series("activations/late/mean").empty());
  resumed.restore(checkpoint);
  for (int step : {20, 30, 40}) log(again, resumed, step);
  whole.write(path("whole.h5")), again.write(path("again.h5"));
  EXPECT_EQ(read_file(path("again.h5")), read_file(path("whole.h5")));
}

TEST_F(History, AnEmptyOneIsAFileToo) {
  StatisticsHistory history;
  history.write(path("stats.h5"));
  EXPECT_TRUE(StatisticsHistory::load(path("stats.h5")).steps().empty());
  history.cut_back(5);
}

TEST_F(History, RefusesForeignAndDamagedFiles) {
  std::ofstream(path("noise.h5")) << "not HDF5 at all";
  EXPECT_THROW(StatisticsHistory::load(path("noise.h5")), InputError);
  EXPECT_THROW(StatisticsHistory::load(path("absent.h5")), InputError);
  EXPECT_THROW(StatisticsHistory::load(folder_.string()), InputError);

  StatisticsHistory history;
  ActivationStatistics live = statistics();
  for (int step : {0, 10}) log(history, live, step);
  history.write(path("good.h5"));
  const std::string good = read_file(path("good.h5"));
  const auto refused = [&](const std::string& bytes) {
    std::filesystem::remove(path("bad.h5"));
    std::ofstream(path("bad.h5"), std::ios::binary) << bytes;
    EXPECT_THROW(StatisticsHistory::load(path("bad.h5")), InputError);
  };
  for (std::size_t i = 0; i < 200; ++i) {
    const std::size_t at = i * (good.size() - 1) / 199;
    std::string flipped = good;
    flipped[at] = char(flipped[at] ^ (1 << (i % 8)));
    refused(flipped);
    refused(good.substr(0, at));
  }

  // Sealed, but not what we write: values for more steps than there are.
  std::vector<double> three{1, 2, 3};
  std::vector<std::int64_t> steps{1, 2};
  Hdf5Writer uneven("uneven.h5", kSealBytes);
  uneven.tensor("/step", Tensor(steps.data(), DType::i64, {2}));
  uneven.tensor("/activations/a/mean", Tensor(three.data(), DType::f64, {3}));
  Hdf5Image image = uneven.finish();
  seal(image.bytes(), {"quietformer statistics", 1});
  refused(std::string(image.view()));
}

}  // namespace
}  // namespace quietformer
