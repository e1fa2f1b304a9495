// The JSON part of a safetensors file.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "train/safetensors.h"

namespace quietformer {

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;
};

/// Checks the form: an object whose members are objects with exactly dtype (text), shape and
/// data_offsets (lists of unsigned integers), no key given twice, __metadata__ a map of texts.
/// InputError naming `path` and the tensor. What the values mean is for the caller to check.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& path);

/// The reverse, without padding. InputError on repeated names and text that is not UTF-8.
std::string format_safetensors_header(const SafetensorsHeader& header, const std::string& path);

/// Throws InputError: `path`, then what is wrong with it.
[[noreturn]] void refuse(const std::string& path, std::string_view what);

}  // namespace quietformer
