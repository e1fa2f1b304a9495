#include "analysis/event_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "analysis/event.pb.h"
#include "core/check.h"

namespace quietformer {
namespace {

std::int64_t microseconds() {
  using namespace std::chrono;
  return duration_cast<std::chrono::microseconds>(system_clock::now().time_since_epoch()).count();
}

events::Event event_of(std::int64_t step) {
  events::Event event;
  event.set_wall_time(static_cast<double>(microseconds()) * 1e-6);
  event.set_step(step);
  return event;
}

std::string host() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

}  // namespace

bool event_files_built() {
  return true;
}

EventFile::EventFile(const std::string& directory, std::int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw RunError(fmt::format("{}: cannot create: {}", directory, error.message()));
  const std::int64_t now = microseconds();
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{:06}.{}", directory, now / 1'000'000,
                      now % 1'000'000, host());
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) throw RunError(fmt::format("{}: cannot create: {}", path_, std::strerror(errno)));
  events::Event version = event_of(0);
  version.set_file_version("brain.Event:2");
  events::Event start = event_of(first_step);
  start.mutable_session_log()->set_status(events::SessionLog::START);
  append(version.SerializeAsString());
  append(start.SerializeAsString());
}

EventFile::~EventFile() {
  if (file_ >= 0) close(file_);
}

void EventFile::write(std::int64_t step, std::span<const NamedValue> scalars) {
  events::Event event = event_of(step);
  for (const NamedValue& scalar : scalars) {
    events::Summary::Value& value = *event.mutable_summary()->add_value();
    value.set_tag(scalar.name);
    value.set_simple_value(static_cast<float>(scalar.value));
  }
  append(event.SerializeAsString());
}

void EventFile::append(const std::string& event) {
  const std::string record = tfrecord(event);
  const ssize_t written = ::write(file_, record.data(), record.size());
  if (written == static_cast<ssize_t>(record.size())) return;
  throw RunError(fmt::format("{}: cannot write: {}", path_,
                             written < 0 ? std::strerror(errno) : "the disk is full"));
}

}  // namespace quietformer
