// A pool of threads that sleep between parallel sections.
//
// Why not OpenMP: libgomp's threads spin for milliseconds at every barrier, which on a busy machine
// (tests side by side, a shared laptop) made a training step three times slower than on one thread,
// and ThreadSanitizer cannot see its synchronisation. Here waiting spins for some ten microseconds
// (sections of a step follow each other closely), then sleeps.
#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/context.h"

namespace quietformer {
namespace {

thread_local bool inside_section = false;

void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Returns once `value` differs from `old`.
void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr int kSpins = 500;
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_thread();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old);
}

class Pool {
 public:
  ~Pool() {
    stop_ = true;
    for (const auto& worker : workers_) call(*worker);
    for (const auto& worker : workers_) worker->thread.join();
  }

  /// Runs the section on the caller and threads - 1 workers. One section at a time: false when
  /// another caller's is under way.
  bool run(int threads, std::int64_t chunks, const ChunkBody& body) {
    const std::unique_lock<std::mutex> one_section(section_, std::try_to_lock);
    if (!one_section.owns_lock()) return false;
    while (static_cast<int>(workers_.size()) < threads - 1) add_worker();
    body_ = &body;
    chunks_ = chunks;
    next_.store(0, std::memory_order_relaxed);
    pending_.store(static_cast<std::uint32_t>(threads - 1), std::memory_order_relaxed);
    for (int w = 0; w < threads - 1; ++w) call(*workers_[w]);
    take_chunks(0);
    for (std::uint32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;)
      wait_while(pending_, left);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return true;
  }

 private:
  struct alignas(64) Worker {
    std::atomic<std::uint32_t> calls{0};
    std::thread thread;
  };

  static void call(Worker& worker) {
    worker.calls.fetch_add(1, std::memory_order_release);
    worker.calls.notify_one();
  }

  void add_worker() {
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    const int index = static_cast<int>(workers_.size());  // the caller is 0
    worker.thread = std::thread([this, &worker, index] {
      for (std::uint32_t seen = 0;; ++seen) {
        wait_while(worker.calls, seen);
        if (stop_) return;
        take_chunks(index);
        if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
      }
    });
  }

  void take_chunks(int thread) {
    inside_section = true;
    for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) {
      try {
        (*body_)(i, thread);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
    inside_section = false;
  }

  std::mutex section_;
  std::vector<std::unique_ptr<Worker>> workers_;
  const ChunkBody* body_ = nullptr;
  std::int64_t chunks_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::atomic<std::uint32_t> pending_{0};
  std::atomic<bool> stop_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

/// Threads hold no results, so one pool serves every Context, as the operating system's cores do.
Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

void parallel_chunks(const Context& ctx, std::int64_t chunks, ChunkBody body) {
  const int threads = static_cast<int>(std::min<std::int64_t>(ctx.threads, chunks));
  if (threads > 1 && !inside_section && pool().run(threads, chunks, body)) return;
  // A nested call keeps its caller's scratch apart by never using thread numbers above 0.
  for (std::int64_t i = 0; i < chunks; ++i) body(i, 0);
}

int available_threads() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace quietformer
