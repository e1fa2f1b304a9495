// Runs a problem whose tensors lie on the CPU on the device under test: there, or with
// QUIETFORMER_ATTENTION_DEVICE=cuda through copies on the first GPU.
#pragma once

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "tests/support/tensors.h"

namespace quietformer::test {

inline bool gpu_under_test() {
  const char* device = std::getenv("QUIETFORMER_ATTENTION_DEVICE");
  return device != nullptr && std::string(device) == "cuda";
}

/// Skips all tests of the program where they need a GPU and there is none.
class NeedsGpu : public testing::Environment {
 public:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); gpu_under_test() && !reason.empty())
      GTEST_SKIP() << "SKIPPED: " << reason;
  }
};
inline testing::Environment* const kNeedsGpu =
    testing::AddGlobalTestEnvironment(new NeedsGpu);  // gtest owns it

/// Every tensor of a problem but the workspace.
inline std::vector<Tensor*> tensors_of(AttentionProblem& p) {
  std::vector<Tensor*> all{&p.q,
                           &p.k,
                           &p.v,
                           &p.q2,
                           &p.k2,
                           &p.mask,
                           &p.key_padding,
                           &p.bias,
                           &p.alibi_slopes,
                           &p.cu_seqlens_q,
                           &p.cu_seqlens_k,
                           &p.o,
                           &p.row_state,
                           &p.lse,
                           &p.lse_scores,
                           &p.sink_mass,
                           &p.row_sum,
                           &p.total_attention,
                           &p.weights,
                           &p.do_,
                           &p.dq,
                           &p.dk,
                           &p.dv,
                           &p.dq2,
                           &p.dk2,
                           &p.dbias,
                           &p.dscale};
  for (Tensor& tensor : p.head_parameters) all.push_back(&tensor);
  for (Tensor& tensor : p.d_head_parameters) all.push_back(&tensor);
  return all;
}

/// Copies of a problem's tensors on the GPU, kept from call to call. Each has the strides of the
/// original and guard bytes around it; what lies between its rows is guarded as well.
class GpuCopies {
 public:
  /// Uploads, runs, downloads. Fails the test when something outside of a tensor was written.
  void run(const AttentionImplementation& implementation, const Context& host_ctx,
           const AttentionProblem& problem, Direction direction) {
    Context ctx = host_ctx;
    ctx.device = kGpu;
    AttentionProblem here = problem, there = problem;
    const std::vector<Tensor*> from = tensors_of(here), to = tensors_of(there);
    copies_.resize(from.size());
    for (std::size_t t = 0; t < from.size(); ++t) upload(copies_[t], *from[t], *to[t]);
    there.workspace = Tensor();
    const std::int64_t needed = implementation.workspace_bytes(ctx, there, direction);
    if (needed > workspace_bytes_) {
      workspace_ = GuardedTensor(DType::u8, {needed}, kGpu);
      workspace_bytes_ = needed;
    }
    if (needed > 0) there.workspace = workspace_.view().slice(0, 0, needed);
    if (direction == Direction::forward)
      implementation.forward(ctx, there);
    else
      implementation.backward(ctx, there);
    cuda::synchronize(kGpu);
    for (std::size_t t = 0; t < from.size(); ++t) download(copies_[t], *from[t]);
    EXPECT_TRUE(workspace_.intact()) << "written outside of the workspace";
  }

 private:
  static constexpr Device kGpu{DeviceType::cuda, 0};
  static constexpr std::int64_t kGuard = 256;
  static constexpr char kPattern = 0x5A;

  struct Copy {
    OwnedTensor memory;  // u8
    std::vector<char> bytes;
  };

  static std::int64_t extent(const Tensor& t) {
    std::int64_t last = 0;
    for (int d = 0; d < t.shape.rank; ++d) last += (t.shape[d] - 1) * t.stride[d];
    return (last + 1) * size_of(t.dtype);
  }

  static Tensor whole(const Copy& copy, bool there) {
    const auto size = std::int64_t(copy.bytes.size());
    return there ? copy.memory.view().slice(0, 0, size)
                 : Tensor(const_cast<char*>(copy.bytes.data()), DType::u8, {size});
  }

  static void upload(Copy& copy, const Tensor& here, Tensor& there) {
    if (here.shape.rank == 0) return;
    there.device = kGpu;
    there.data = nullptr;
    if (here.data == nullptr || here.count() == 0) return;
    const std::int64_t size = extent(here);
    copy.bytes.assign(std::size_t(size + 2 * kGuard), kPattern);
    if (copy.memory.view().count() < std::int64_t(copy.bytes.size()))
      copy.memory = OwnedTensor(DType::u8, {std::int64_t(copy.bytes.size())}, kGpu);
    for_each_element(here, [&](char* element, std::int64_t offset, std::size_t bytes) {
      std::memcpy(copy.bytes.data() + kGuard + offset, element, bytes);
    });
    cuda::copy(whole(copy, true), whole(copy, false));
    there.data = static_cast<char*>(copy.memory.view().data) + kGuard;
  }

  static void download(Copy& copy, const Tensor& here) {
    if (here.shape.rank == 0 || here.data == nullptr || here.count() == 0) return;
    cuda::copy(whole(copy, false), whole(copy, true));
    for_each_element(here, [&](char* element, std::int64_t offset, std::size_t bytes) {
      std::memcpy(element, copy.bytes.data() + kGuard + offset, bytes);
    });
    for_each_element(here, [&](char*, std::int64_t offset, std::size_t bytes) {
      std::memset(copy.bytes.data() + kGuard + offset, kPattern, bytes);
    });
    EXPECT_TRUE(std::all_of(copy.bytes.begin(), copy.bytes.end(),
                            [](char byte) { return byte == kPattern; }))
        << "written outside of a tensor of shape " << to_string(here.shape);
  }

  template <class F>
  static void for_each_element(const Tensor& t, F&& f) {
    const std::int64_t size = size_of(t.dtype);
    for (std::int64_t i = 0; i < t.count(); ++i) {
      const std::int64_t offset = offset_of(t, i) * size;
      f(static_cast<char*>(t.data) + offset, offset, std::size_t(size));
    }
  }

  std::vector<Copy> copies_;
  GuardedTensor workspace_;
  std::int64_t workspace_bytes_ = 0;
};

}  // namespace quietformer::test
