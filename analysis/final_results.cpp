#include "analysis/final_results.h"

#include <fmt/format.h>

#include <span>

#include "core/hdf5.h"

namespace quietformer {
namespace {

class Group {
 public:
  Group(Hdf5Writer& file, std::string path) : file_(file), path_(std::move(path)) {}

  void add(std::string_view name, std::span<const double> values, const char* dimension,
           const char* description) {
    add(name, values.data(), DType::f64, values.size(), dimension, description);
  }
  void add(std::string_view name, std::span<const std::int64_t> values, const char* dimension,
           const char* description) {
    add(name, values.data(), DType::i64, values.size(), dimension, description);
  }

 private:
  void add(std::string_view name, const void* values, DType dtype, std::size_t count,
           const char* dimension, const char* description) {
    const std::string dataset = fmt::format("{}/{}", path_, name);
    const Shape shape{static_cast<std::int64_t>(count)};
    file_.tensor(dataset, Tensor(const_cast<void*>(values), dtype, shape));  // which reads it
    file_.attribute(dataset, "description", std::string(description));
    file_.attribute(dataset, "dimensions", std::vector<std::string>{dimension});
  }
  Hdf5Writer& file_;
  std::string path_;
};

}  // namespace

void write_final(Hdf5Writer& file, const FinalResults& results) {
  file.group("/final");
  file.attribute("/final", "description",
                 std::string("The final weights on some sequences of the validation part."));
  file.attribute("/final", "sequences", results.sequences);
  for (const FinalSite& site : results.sites) {
    Group group(file, "/final/activations/" + site.site);
    group.add("infinity_norm_by_token", site.norm_by_token, "token",
              "largest absolute value of a position, average over sequences");
    group.add("infinity_norm_by_channel", site.norm_by_channel, "channel",
              "largest absolute value of a channel, average over sequences");
  }
  if (results.outliers.layers == 0) return;
  Group group(file, "/final/outlier_dimensions");
  group.add("layers", results.outliers.channel_layers, "channel",
            "blocks whose output exceeds 6 in this channel somewhere");
  group.add("positions", results.outliers.channel_positions, "channel",
            "share of all positions of all blocks' outputs that exceed 6 in this channel");
}

}  // namespace quietformer
