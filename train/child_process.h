// Another process of this program.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quietformer {

/// Starts at construction. It has a process group of its own, so that a terminal's Ctrl-C reaches
/// only its parent, which decides; and it gets SIGTERM when its parent's thread ends in any way.
/// Descriptors without O_CLOEXEC stay open in it.
class ChildProcess {
 public:
  struct Request {
    std::vector<std::string> arguments;                                 // after the program's name
    std::vector<std::pair<std::string, std::string>> environment = {};  // besides our own
    std::string output = {};  // where both its outputs are appended; empty: where ours go
  };
  /// RunError when it cannot be started.
  explicit ChildProcess(const Request& request);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  /// Asks it to end with SIGTERM, and waits.
  ~ChildProcess();

  /// Its exit status once it has ended, 128 + signal where a signal ended it. Does not wait.
  std::optional<int> poll();
  void signal(int number) const;

 private:
  int process_ = -1;  // its id
  std::optional<int> status_;
};

}  // namespace quietformer
