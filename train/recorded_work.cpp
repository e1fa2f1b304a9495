#include "train/recorded_work.h"

namespace quietformer {

bool RecordedWork::run(const Context& ctx, Recording recording, const std::function<void()>& work) {
  if (recording == Recording::no || !known_) {
    work();
    known_ = true;
    return true;
  }
  const bool recorded_now = !graph_;
  if (recorded_now) graph_ = cuda::Graph(ctx, work);
  graph_.launch(ctx);
  return recorded_now;
}

}  // namespace quietformer
