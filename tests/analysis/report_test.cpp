// The page's data. What the page makes of it: tests/system/report_test.py.
#include "analysis/report.h"

#include <cmath>

#include "tests/analysis/run_directory.h"

namespace quietformer {
namespace {

using nlohmann::json;

class Report : public RunDirectories {
 protected:
  Report() : RunDirectories("quietformer_report") {}
};

TEST_F(Report, DataHoldsWhatThePageShows) {
  const std::string first = make_seed("a1", 1, 2), second = make_seed("a2", 2, 4);
  write("a1", "quantized.json", kQuantized);
  const json data = json::parse(report_data(compared({first, second})));
  ASSERT_EQ(data["variants"].size(), 1u);
  EXPECT_EQ(data["variants"][0]["runs"], json({0, 1}));
  EXPECT_EQ(data["variants"][0]["metrics"]["loss/validation"]["mean"], 3);
  EXPECT_EQ(data["variants"][0]["log"]["loss"]["steps"], json({0, 10, 20}));
  const json& run = data["runs"][0];
  EXPECT_EQ(run["log"]["validation_loss"]["values"], json({4.25}));
  EXPECT_EQ(run["sites"][1]["values"]["kurtosis"], 30);
  EXPECT_EQ(run["sites"][1]["histogram"]["counts"], json({4, 2, 0, 1}));
  EXPECT_EQ(run["heads"][1]["values"], json({1, nullptr}));
  EXPECT_EQ(run["schemes"][0]["sites"][0], json({"blocks.0.mlp.down", 0.125}));
  EXPECT_EQ(run["environment"][0], json({"commit", "abc"}));
  EXPECT_EQ(data["metrics"][0]["name"], "loss/validation");
}

TEST_F(Report, NoNameEndsTheScriptElement) {
  std::string config = kConfig;
  config.replace(config.find("softmax1"), 8, "'</script><!--\"&'");
  json results = json::parse(kResults);
  results["activations"]["</SCRIPT>"] = {{"kurtosis", 1}};
  results["loss"]["validation"] = 1e300;  // fits; NaN and infinity are null
  const std::string data = report_data(compared({make("a", results.dump(), config)}));
  EXPECT_EQ(data.find('<'), std::string::npos);
  EXPECT_EQ(data.find("nan"), std::string::npos);
  const json root = json::parse(data);
  EXPECT_EQ(root["variants"][0]["name"], "</script><!--\"&");
  EXPECT_TRUE(root["variants"][0]["metrics"]["loss/validation"]["deviation"].is_null());
}

TEST_F(Report, ThinnedCurvesKeepEndsAndExtremes) {
  std::vector<std::int64_t> steps;
  std::vector<double> values;
  for (int i = 0; i < 10000; ++i) {
    steps.push_back(3 * i);
    values.push_back(std::sin(i / 800.0));
  }
  values[4321] = 40;
  values[7777] = -30;
  const std::vector<std::size_t> kept = thin(steps, values, 100);
  EXPECT_EQ(kept.size(), 100u);
  EXPECT_EQ(kept.front(), 0u);
  EXPECT_EQ(kept.back(), 9999u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(std::adjacent_find(kept.begin(), kept.end()), kept.end());
  EXPECT_NE(std::find(kept.begin(), kept.end(), 4321u), kept.end());
  EXPECT_NE(std::find(kept.begin(), kept.end(), 7777u), kept.end());
  EXPECT_EQ(thin(steps, values, 2), (std::vector<std::size_t>{0, 9999}));
  EXPECT_EQ(thin(steps, values, 3).size(), 3u);
  EXPECT_EQ(thin(steps, values, 20000).size(), 10000u);
  EXPECT_TRUE(thin({}, {}, 5).empty());
  for (std::size_t count = 3; count < 40; ++count)
    for (std::size_t most = 2; most < count; ++most)
      ASSERT_EQ(thin(std::span(steps).first(count), std::span(values).first(count), most).size(),
                most);
}

TEST_F(Report, PageIsBoundedHoweverLongTheHistories) {
  Comparison comparison;
  for (int run = 0; run < 40; ++run) {
    RunRecord record;
    record.config = {{"x", std::to_string(run)}};
    for (int series = 0; series < 50; ++series) {
      Curve curve{"site." + std::to_string(series) + "/kurtosis", {}, {}};
      for (int step = 0; step < 1000; ++step) {
        curve.steps.push_back(step * 1000);
        curve.values.push_back(std::sin(step * series) / 3);
      }
      record.statistics.push_back(std::move(curve));
    }
    comparison.runs.push_back(std::move(record));
  }
  comparison = compare(std::move(comparison.runs), Grouping::by_config);
  const std::string data = report_data(comparison);
  EXPECT_LT(data.size(), std::size_t{10} << 20);
  const json root = json::parse(data);
  EXPECT_EQ(root["points"], json({{"log", 400}, {"statistics", 74}}));  // 150,000 for 2,001
  EXPECT_EQ(root["thinned"], true);
  EXPECT_EQ(root["runs"][39]["statistics"]["site.49/kurtosis"]["steps"].size(), 74u);
}

TEST_F(Report, PageIsOneFileThatAsksForNothing) {
  const Comparison comparison = compared({make("a")});
  if (!why_no_report().empty()) GTEST_SKIP() << why_no_report();
  const std::string page = report_page(comparison);
  EXPECT_TRUE(page.starts_with("<!DOCTYPE html>"));
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_NE(page.find("Released under the MIT License"), std::string::npos);  // of Chart.js
  for (const char* request : {"<link rel=\"stylesheet", "<script src", "<img", "@import", "url("})
    EXPECT_EQ(page.find(request), std::string::npos) << request;
  // Nothing of the template's places is left, and the data is where the page looks for it.
  for (const char* place : {"/*STYLE*/", "/*LIBRARY*/", "/*DATA*/", "/*SCRIPTS*/"})
    EXPECT_EQ(page.find(place), std::string::npos) << place;
  EXPECT_NE(page.find("id=\"data\">{\"metrics\":"), std::string::npos);
}

}  // namespace
}  // namespace quietformer
