// In place of event_file.cpp in a build without protobuf.
#include "analysis/event_file.h"
#include "core/check.h"

namespace quietformer {

bool event_files_built() {
  return false;
}

EventFile::EventFile(const std::string&, std::int64_t) {
  throw InputError("event files need protobuf, which this build has not");
}

EventFile::~EventFile() = default;

void EventFile::write(std::int64_t, std::span<const NamedValue>) {}

}  // namespace quietformer
