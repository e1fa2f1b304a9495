#include "train/stop_signal.h"

#include <atomic>
#include <csignal>

namespace quietformer {
namespace {

// A signal handler can only reach static state; this is the one exception to "no globals".
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int signal) {
  received.store(signal);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESETHAND;  // the second one acts as usual
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);
}

int stop_signal() {
  return received.load();
}

}  // namespace quietformer
