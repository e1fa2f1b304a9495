// The one way to use several CPU threads.
//
// Work is cut into chunks whose number and borders depend on the problem alone, never on the number
// of threads, so every result is bitwise the same with 1 thread and with 64. A reduction over
// chunks is added up by the caller in chunk order.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace quietformer {

struct Context;

/// Non-owning reference to a callable `void(std::int64_t index, int thread)`; never allocates.
class ChunkBody {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, ChunkBody>>>
  ChunkBody(F&& f)  // NOLINT: implicit on purpose, lambdas are passed in place
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, std::int64_t index, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(object))(index, thread);
        }) {}
  void operator()(std::int64_t index, int thread) const { call_(object_, index, thread); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, int);
};

/// Calls body(i, thread) for every i in [0, chunks), in any order, on up to ctx.threads threads;
/// `thread` in [0, ctx.threads) tells scratch memory apart. An exception thrown by the body is
/// rethrown here. Nested calls run serially.
void parallel_chunks(const Context& ctx, std::int64_t chunks, ChunkBody body);

/// Cuts [0, count) into pieces of `grain` and calls f(begin, end) for each.
template <class F>
void parallel_for(const Context& ctx, std::int64_t count, std::int64_t grain, F&& f) {
  parallel_chunks(ctx, (count + grain - 1) / grain, [&](std::int64_t chunk, int) {
    const std::int64_t begin = chunk * grain;
    f(begin, begin + grain < count ? begin + grain : count);
  });
}

/// Processor cores this process may use (its affinity mask), at least 1.
int available_threads();

}  // namespace quietformer
