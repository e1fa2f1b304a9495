#include "train/recorded_work.h"

namespace quietformer {

void RecordedWork::run(const Context& ctx, Recording recording, const std::function<void()>& work) {
  if (recording == Recording::no || !known_) {
    work();
    known_ = true;
    return;
  }
  if (!graph_) graph_ = cuda::Graph(ctx, work);
  graph_.launch(ctx);
}

}  // namespace quietformer
