#include "train/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "analysis/activation_statistics.h"
#include "core/check.h"
#include "data/windows.h"
#include "train/evaluate.h"
#include "train/load_model.h"

namespace quietformer {

Calibration calibrate(const ModelSource& model, const TokenSource& text, const std::string& device,
                      std::int64_t windows) {
  constexpr std::int64_t kMostRows = 8;
  if (text.size() < 2)
    throw InputError(fmt::format("{}: {} tokens, expected 2 or more", text.name(), text.size()));
  const LoadedModel loaded = load_model(model, device);
  const RunConfig& config = loaded.config;
  const Context ctx = context_for(loaded.placement);
  const std::int64_t rows = std::min(kMostRows, windows), context = config.model.context;
  const std::optional<Masking> masking = masking_of(config);
  Arena arena("activations", ctx.device);
  BatchFeed feed(arena, {rows, context}, ctx.device,
                 masking ? BatchFeed::Padding::possible : BatchFeed::Padding::none);
  loaded.model->declare(ctx, arena, {rows, context}, Purpose::inference);
  arena.commit();

  AnalysisConfig analysis;
  analysis.sites = {"blocks.*.attention.context"};  // masses go along with it
  ActivationStatistics statistics(analysis, config.model.heads);
  const Windows all(text, {0, text.size()}, context, rows, (windows + rows - 1) / rows);
  statistics.begin_step();
  const Evaluation evaluation =
      evaluate(ctx, *loaded.model, all, feed, &statistics, masking ? &*masking : nullptr);
  statistics.end_step();

  Calibration result;
  result.loss = evaluation.loss;
  result.targets = evaluation.targets;
  result.sink_mass.assign(static_cast<std::size_t>(config.model.layers),
                          std::numeric_limits<double>::quiet_NaN());
  for (const SiteStatistics& site : statistics.latest())
    for (std::size_t layer = 0; layer < result.sink_mass.size(); ++layer)
      if (site.site == fmt::format("blocks.{}.attention.sink_mass", layer))
        result.sink_mass[layer] = site.all.average(&SampleSums::mean);
  return result;
}

}  // namespace quietformer
