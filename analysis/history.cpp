#include "analysis/history.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "analysis/quantities.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "core/math.h"
#include "core/sealed_file.h"

namespace quietformer {
namespace {

constexpr SealKind kKind{"quietformer statistics", 1};

Tensor view(std::vector<double>& values, const Shape& shape) {
  return Tensor(values.data(), DType::f64, shape);
}

std::string text_attribute(const std::map<std::string, Hdf5Attribute>& attributes,
                           const std::string& name) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) return {};
  const auto* text = std::get_if<std::string>(&found->second);
  return text == nullptr ? std::string() : *text;
}

}  // namespace

void StatisticsHistory::append(const std::string& path, std::string_view meaning, bool by_head,
                               std::span<const double> values) {
  const std::size_t rows_before = steps_.size() - 1;
  auto [found, added] = series_.try_emplace(path);
  Series& series = found->second;
  if (added) {
    order_.push_back(path);
    series.meaning = meaning;
    series.by_head = by_head;
    series.width = static_cast<std::int64_t>(values.size());
  }
  QF_EXPECTS(series.width == static_cast<std::int64_t>(values.size()));
  // Steps without this series.
  series.values.resize(rows_before * values.size(), math::kNaN<double>);
  series.values.insert(series.values.end(), values.begin(), values.end());
}

void StatisticsHistory::add(std::int64_t step, std::span<const SiteStatistics> activations,
                            std::span<const WeightStatistics> weights) {
  QF_EXPECTS(steps_.empty() || step > steps_.back());
  steps_.push_back(step);
  const auto append_all = [&](const auto& statistics, const std::string& group) {
    visit_quantities(statistics, [&](const Quantity& quantity, std::span<const double> values) {
      append(fmt::format("{}/{}", group, quantity.name), quantity.meaning,
             quantity.kind == Quantity::Kind::by_head, values);
    });
  };
  for (const SiteStatistics& site : activations) append_all(site, "activations/" + site.site);
  for (const WeightStatistics& weight : weights) append_all(weight, "weights/" + weight.name);
}

std::vector<double> StatisticsHistory::series(const std::string& path) const {
  const auto found = series_.find(path);
  if (found == series_.end()) return {};
  std::vector<double> values = found->second.values;
  values.resize(steps_.size() * static_cast<std::size_t>(found->second.width), math::kNaN<double>);
  return values;
}

void StatisticsHistory::cut_back(std::int64_t last_step) {
  const auto rows = static_cast<std::size_t>(
      std::upper_bound(steps_.begin(), steps_.end(), last_step) - steps_.begin());
  steps_.resize(rows);
  for (auto item = series_.begin(); item != series_.end();) {
    Series& series = item->second;
    const std::size_t size = rows * static_cast<std::size_t>(series.width);
    if (series.values.size() > size) series.values.resize(size);
    const bool empty = std::all_of(series.values.begin(), series.values.end(),
                                   [](double value) { return std::isnan(value); });
    item = empty ? series_.erase(item) : std::next(item);
  }
  std::erase_if(order_, [this](const std::string& path) { return !series_.contains(path); });
}

void StatisticsHistory::write(const std::string& path, const FinalResults* final) const {
  Hdf5Writer file(path, kSealBytes);
  file.attribute("/", "format", std::string(kKind.name));
  file.attribute("/", "version", std::int64_t{kKind.version});
  file.attribute("/", "description",
                 std::string("Statistics of a training run over its logged steps: row i of every "
                             "dataset belongs to step[i]; NaN where nothing was recorded."));
  std::vector<std::int64_t> steps = steps_;
  const std::int64_t rows = static_cast<std::int64_t>(steps.size());
  file.tensor("/step", Tensor(steps.data(), DType::i64, {rows}));
  file.attribute("/step", "description", std::string("optimizer step, as in log.jsonl"));
  // Group by group, so that a loaded file is written again as it was.
  std::vector<std::string> order = order_;
  std::stable_partition(order.begin(), order.end(),
                        [](const std::string& name) { return name.starts_with("activations/"); });
  for (const std::string& name : order) {
    const Series& description = series_.at(name);
    std::vector<double> values = series(name);
    const std::string dataset = "/" + name;
    file.tensor(dataset,
                view(values, description.by_head ? Shape{rows, description.width} : Shape{rows}));
    file.attribute(dataset, "description", description.meaning);
    file.attribute(dataset, "dimensions",
                   description.by_head ? std::vector<std::string>{"step", "head"}
                                       : std::vector<std::string>{"step"});
  }
  if (final != nullptr) write_final(file, *final);
  Hdf5Image image = file.finish();
  seal(image.bytes(), kKind);
  write_file_atomically(path, image.view());
}

StatisticsHistory StatisticsHistory::load(const std::string& path) {
  const MappedFile mapped(path);
  verify_seal(mapped.bytes(), kKind, path);  // HDF5 trusts what it reads
  const Hdf5Reader file(path, mapped.bytes());
  const auto fail = [&path](const std::string& what) -> void {
    throw InputError(fmt::format("{}: {}", path, what));
  };
  StatisticsHistory history;
  const OwnedTensor steps = file.read("/step");
  const Tensor& view = steps.view();
  if (view.dtype != DType::i64 || view.shape.rank != 1)
    fail(fmt::format("/step: found {} {}, expected i64 of one dimension", name_of(view.dtype),
                     to_string(view.shape)));
  history.steps_.assign(view.as<std::int64_t>(), view.as<std::int64_t>() + view.count());
  if (std::adjacent_find(history.steps_.begin(), history.steps_.end(),
                         std::greater_equal<std::int64_t>()) != history.steps_.end())
    fail("/step: expected increasing steps");

  const std::int64_t rows = view.count();
  const std::function<void(const std::string&, int)> walk = [&](const std::string& group,
                                                                int depth) {
    for (const Hdf5Entry& entry : file.list("/" + group)) {
      const std::string name = group + "/" + entry.name;
      if (entry.kind == Hdf5Entry::Kind::group && depth < 3) {
        walk(name, depth + 1);
        continue;
      }
      const Shape& shape = entry.shape;
      if (entry.kind != Hdf5Entry::Kind::tensor || entry.dtype != DType::f64 || shape.rank < 1 ||
          shape.rank > 2 || shape[0] != rows)
        fail(fmt::format("/{}: expected f64 values for {} steps", name, rows));
      const OwnedTensor values = file.read("/" + name);
      Series series;
      series.meaning = text_attribute(file.attributes("/" + name), "description");
      series.by_head = shape.rank == 2;
      series.width = series.by_head ? shape[1] : 1;
      series.values.assign(values.as<double>(), values.as<double>() + values.view().count());
      history.order_.push_back(name);
      history.series_.emplace(name, std::move(series));
    }
  };
  for (const char* group : {"activations", "weights"})
    if (file.contains(std::string("/") + group)) walk(group, 0);
  return history;
}

}  // namespace quietformer
