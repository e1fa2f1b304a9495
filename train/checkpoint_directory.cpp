#include "train/checkpoint_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "core/check.h"
#include "core/log.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

std::optional<std::int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step_";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = -1;
  const auto [end, error] =
      std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
  // Only the very name we would give it: "step_7.h5" or "step_+7.h5" is somebody else's.
  if (error != std::errc() || step < 0 || CheckpointDirectory::file_name(step) != name)
    return std::nullopt;
  return step;
}

}  // namespace

std::string CheckpointDirectory::file_name(std::int64_t step) {
  QF_EXPECTS(step >= 0);
  return fmt::format("step_{:08}.h5", step);
}

std::string CheckpointDirectory::path_of(std::int64_t step) const {
  return (fs::path(directory_) / file_name(step)).string();
}

std::vector<std::int64_t> CheckpointDirectory::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end;
       entry.increment(error))
    if (const auto step = step_of(entry->path().filename().string())) steps.push_back(*step);
  if (error && error != std::errc::no_such_file_or_directory)
    throw InputError(fmt::format("{}: cannot list: {}", directory_, error.message()));
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointDirectory::write(std::int64_t step, const Checkpoint& checkpoint) const {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) throw RunError(fmt::format("{}: cannot create: {}", directory_, error.message()));
  write_checkpoint(path_of(step), checkpoint);
}

std::optional<CheckpointReader> CheckpointDirectory::newest_valid(const Refused& refused) const {
  const std::vector<std::int64_t> all = steps();
  for (auto step = all.rbegin(); step != all.rend(); ++step) {
    try {
      return CheckpointReader(path_of(*step));
    } catch (const InputError& error) {
      refused(error.what());
    }
  }
  return std::nullopt;
}

std::optional<std::string> CheckpointDirectory::best(const Refused& refused) const {
  const auto newest = newest_valid(refused);
  if (!newest || !newest->integers().contains(kBestStep)) return std::nullopt;
  const std::int64_t step = newest->integer(kBestStep);
  std::error_code error;
  if (step < 0 || !fs::is_regular_file(path_of(step), error)) return std::nullopt;
  return path_of(step);
}

void CheckpointDirectory::prune(std::int64_t newest, int keep,
                                std::optional<std::int64_t> best) const {
  QF_EXPECTS(keep >= 1);
  std::vector<std::int64_t> candidates = steps();
  std::erase_if(candidates, [&](std::int64_t step) { return step > newest; });
  const std::size_t kept = std::min(candidates.size(), static_cast<std::size_t>(keep));
  candidates.resize(candidates.size() - kept);
  for (const std::int64_t step : candidates) {
    if (step == best) continue;
    std::error_code error;
    fs::remove(path_of(step), error);
    if (error) log_warning(fmt::format("{}: cannot remove: {}", path_of(step), error.message()));
  }
}

}  // namespace quietformer
