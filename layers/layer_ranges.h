// Which layers of a model: "*" for all, or numbers and ranges from 0, both ends included: "0,4-11".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {

/// The selected layers below `layers`, ascending. InputError, beginning with `key`, for another
/// form and for a range that ends before it begins.
std::vector<std::int64_t> select_layers(std::string_view ranges, std::int64_t layers,
                                        std::string_view key);
/// The highest number that `ranges` names; -1 for "*".
std::int64_t last_layer(std::string_view ranges, std::string_view key);
/// The shortest text for ascending layers.
std::string format_layers(const std::vector<std::int64_t>& layers);

}  // namespace quietformer
