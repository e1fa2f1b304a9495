#include "train/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/check.h"

namespace quietformer {
namespace {

// Whatever happens to the file that it was started from.
constexpr const char* kProgram = "/proc/self/exe";

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& changes) {
  std::vector<std::string> environment;
  for (char** at = environ; *at != nullptr; ++at) {
    const std::string_view entry = *at;
    bool changed = false;
    for (const auto& [name, value] : changes) changed = changed || entry.starts_with(name + "=");
    if (!changed) environment.emplace_back(entry);
  }
  for (const auto& [name, value] : changes) environment.push_back(name + "=" + value);
  return environment;
}

// Between fork and exec: only what may be called there.
[[noreturn]] void become(pid_t parent, int input, int output, char* const* arguments,
                         char* const* environment) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(128 + SIGTERM);  // which ended before it could be watched
  dup2(input, STDIN_FILENO);
  if (output >= 0) {
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
  }
  execve(kProgram, arguments, environment);
  _exit(127);
}

int open_or_throw(const std::string& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0)
    throw RunError(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  return descriptor;
}

int status_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

ChildProcess::ChildProcess(const Request& request) {
  std::vector<std::string> arguments{"quietformer"};
  arguments.insert(arguments.end(), request.arguments.begin(), request.arguments.end());
  std::vector<std::string> environment = environment_with(request.environment);
  const std::vector<char*> argv = pointers_to(arguments), envp = pointers_to(environment);
  const int input = open_or_throw("/dev/null", O_RDONLY);
  const int output =
      request.output.empty() ? -1 : open_or_throw(request.output, O_WRONLY | O_CREAT | O_APPEND);
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ == 0) become(parent, input, output, argv.data(), envp.data());
  const int error = errno;
  close(input);
  if (output >= 0) close(output);
  if (process_ < 0) throw RunError(fmt::format("cannot start a process: {}", std::strerror(error)));
}

ChildProcess::~ChildProcess() {
  if (status_) return;
  signal(SIGTERM);
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) continue;
}

std::optional<int> ChildProcess::poll() {
  int status = 0;
  if (!status_ && waitpid(process_, &status, WNOHANG) == process_) status_ = status_of(status);
  return status_;
}

void ChildProcess::signal(int number) const {
  if (!status_) kill(process_, number);
}

}  // namespace quietformer
