// SIGINT and SIGTERM ask for a stop; the training loop looks between micro-batches.
#pragma once

namespace quietformer {

/// Installs the handlers (a second signal of the same kind ends the process at once) and ignores
/// SIGXFSZ, so that a full disk quota is an error of write() and not the end of the process.
void install_signal_handlers();

/// The signal that asked for a stop, or 0.
int stop_signal();

}  // namespace quietformer
