// Quantisation on a GPU: the losses and sites of the CPU. Skips with the reason where there is no
// GPU.
#include <cmath>
#include <map>

#include "core/cuda/memory.h"
#include "tests/train/quantization_support.h"

namespace quietformer {
namespace {

TEST(GpuQuantize, GivesWhatTheCpuGives) {
  if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  for (const std::string changes :
       {"", ", norm: rmsnorm, mlp: swiglu, kv_heads: 1, bias: false, position: rotary"}) {
    test::Trained trained(changes);
    if (changes.empty()) trained.plant("blocks.1.norm2", "blocks.1.mlp.up", 5, 4096);
    LoadedModel here = trained.load("cpu"), there = trained.load("cuda");
    ASSERT_EQ(there.placement.device.type, DeviceType::cuda);
    const EvaluationText text = test::bundled_text(here);
    QuantizationOptions options = test::options_for({"W8A8", "W16A15"});
    options.leave_one_out = true;
    options.site_batches = 2;
    options.sites.attention = !changes.empty();
    const QuantizationResult want = test::quantize(std::move(here), text, options);
    const QuantizationResult got = test::quantize(std::move(there), text, options);
    EXPECT_NEAR(got.float_loss, want.float_loss, 1e-5);
    for (std::size_t i = 0; i < want.schemes.size(); ++i) {
      const SchemeResult &g = got.schemes[i], &w = want.schemes[i];
      // Numbers at the border of two steps fall either way.
      const double tolerance = 1e-5 + 0.05 * std::abs(w.loss - want.float_loss);
      EXPECT_NEAR(g.loss, w.loss, tolerance) << w.scheme.name;
      std::map<std::string, QuantizedSite> sites;
      for (const QuantizedSite& site : w.sites) sites[site.name] = site;
      ASSERT_EQ(g.sites.size(), sites.size());
      for (const QuantizedSite& site : g.sites) {
        const QuantizedSite& wanted = sites.at(site.name);
        EXPECT_NEAR(site.low, wanted.low, 1e-5 * (wanted.high - wanted.low)) << site.name;
        EXPECT_NEAR(site.high, wanted.high, 1e-5 * (wanted.high - wanted.low)) << site.name;
        EXPECT_NEAR(site.mse, wanted.mse, 0.01 * wanted.mse) << site.name;
      }
    }
    if (changes.empty()) {
      EXPECT_EQ(got.schemes[0].sites[0].name, "blocks.1.mlp.up.input");
    }
  }
}

}  // namespace
}  // namespace quietformer
