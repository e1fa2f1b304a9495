#include "train/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/file.h"

namespace quietformer {
namespace fs = std::filesystem;

bool RunDirectory::vacant() const {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return true;
  if (!fs::is_directory(status))
    throw InputError(fmt::format("{}: is not a directory, expected a run directory", path));
  const bool empty = fs::is_empty(path, error);
  if (error) throw InputError(fmt::format("{}: {}", path, error.message()));
  return empty;
}

bool RunDirectory::barely_begun() const {
  if (vacant()) return true;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    const bool temporary = name.starts_with(".config.yaml.tmp-");
    const bool empty_checkpoints =
        name == "checkpoints" && entry.is_directory() && fs::is_empty(entry.path());
    if (!temporary && !empty_checkpoints) return false;
  }
  return true;
}

void RunDirectory::create() const {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error)
    throw RunError(fmt::format("{}: can't be created: {}", checkpoints(), error.message()));
}

namespace {

// The part of the log that a run resumed at `last_step` keeps.
std::string kept_lines(const std::string& path, const std::string& text, std::int64_t last_step) {
  std::string kept;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // cut by a kill: the step is logged again
    const std::string_view line(text.data() + begin, end - begin + 1);
    begin = end + 1;
    ++number;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer())
      throw InputError(
          fmt::format("{}:{}: expected a JSON object with an integer \"step\"", path, number));
    if (json["step"].get<std::int64_t>() <= last_step) kept += line;
  }
  return kept;
}

}  // namespace

RunLog::RunLog(const std::string& path, std::int64_t last_step) : path_(path) {
  if (fs::exists(path)) {
    const std::string text = read_file(path);
    const std::string kept = kept_lines(path, text, last_step);
    if (kept.size() != text.size()) write_file_atomically(path, kept);
  }
  file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0)
    throw RunError(fmt::format("{}: can't be written: {}", path, std::strerror(errno)));
}

RunLog::~RunLog() {
  ::close(file_);
}

void RunLog::write(const std::string& json) {
  const std::string line = json + "\n";
  errno = 0;
  const ssize_t written = ::write(file_, line.data(), line.size());
  if (written != static_cast<ssize_t>(line.size()))
    throw RunError(fmt::format("{}: can't be written: {}", path_,
                               errno != 0 ? std::strerror(errno) : "only part of a line fitted"));
}

}  // namespace quietformer
