// Patterns over dotted names.
#pragma once

#include <string_view>

namespace quietformer {

/// Whether `pattern` matches the whole of `name`. `*` stands for any characters but a dot, `**` for
/// any characters: blocks.*.output matches blocks.3.output but not blocks.3.mlp.output, which
/// blocks.**.output and **.output match.
bool glob_matches(std::string_view pattern, std::string_view name);

}  // namespace quietformer
