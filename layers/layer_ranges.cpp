#include "layers/layer_ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/check.h"

namespace quietformer {
namespace {

struct Range {
  std::int64_t first, last;
};

constexpr std::int64_t kLargest = 1 << 20;

[[noreturn]] void refuse(std::string_view ranges, std::string_view key) {
  throw InputError(
      fmt::format("{}: found '{}', expected * or numbers and ranges like 0,4-11", key, ranges));
}

std::vector<Range> parse(std::string_view ranges, std::string_view key) {
  std::vector<Range> parsed;
  const char *at = ranges.data(), *const end = at + ranges.size();
  const auto number = [&] {
    std::int64_t value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    if (error != std::errc() || *at == '-' || value > kLargest) refuse(ranges, key);
    at = stop;
    return value;
  };
  while (true) {
    Range range{};
    range.first = range.last = number();
    if (at != end && *at == '-') {
      ++at;
      range.last = number();
    }
    if (range.last < range.first) refuse(ranges, key);
    parsed.push_back(range);
    if (at == end) return parsed;
    if (*at++ != ',') refuse(ranges, key);
  }
}

}  // namespace

std::vector<std::int64_t> select_layers(std::string_view ranges, std::int64_t layers,
                                        std::string_view key) {
  std::set<std::int64_t> selected;
  const auto all = ranges == "*" ? std::vector<Range>{{0, layers - 1}} : parse(ranges, key);
  for (const Range& range : all)
    for (std::int64_t i = range.first; i <= std::min(range.last, layers - 1); ++i)
      selected.insert(i);
  return {selected.begin(), selected.end()};
}

std::int64_t last_layer(std::string_view ranges, std::string_view key) {
  std::int64_t last = -1;
  if (ranges != "*")
    for (const Range& range : parse(ranges, key)) last = std::max(last, range.last);
  return last;
}

std::string format_layers(const std::vector<std::int64_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::size_t first = i;
    while (i + 1 < layers.size() && layers[i + 1] == layers[i] + 1) ++i;
    if (!text.empty()) text += ',';
    text +=
        i == first ? fmt::format("{}", layers[i]) : fmt::format("{}-{}", layers[first], layers[i]);
  }
  return text;
}

}  // namespace quietformer
