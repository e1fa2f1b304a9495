// Where the fixtures are: the environment variable QUIETFORMER_FIXTURES, or the folder that the
// build names (tests/fixtures of the source tree).
#pragma once

#include <cstdlib>
#include <string>

namespace quietformer::test {

inline std::string fixtures_folder() {
  const char* folder = std::getenv("QUIETFORMER_FIXTURES");
  return folder != nullptr && *folder != '\0' ? folder : QUIETFORMER_FIXTURES_FOLDER;
}

}  // namespace quietformer::test
