#include "train/placement.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "core/cuda/memory.h"
#include "train/run_config.h"

namespace quietformer {
namespace {

template <class E>
std::string error_of(const auto& work) {
  try {
    work();
  } catch (const E& error) {
    return error.what();
  }
  return "no such error";
}

TEST(Placement, NamesOfDevicesAndTypes) {
  for (const char* name : {"auto", "cpu", "cuda", "cuda:0", "cuda:12"})
    EXPECT_TRUE(is_device_name(name)) << name;
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:99999999999"})
    EXPECT_FALSE(is_device_name(name)) << name;
  for (const char* name : {"auto", "fp32", "bf16", "fp16", "fp64"})
    EXPECT_TRUE(is_dtype_name(name)) << name;
  EXPECT_FALSE(is_dtype_name("f32"));
}

TEST(Placement, TheCpuComputesInFp32AndFp64) {
  EXPECT_EQ(place("cpu", "auto").dtype, DType::f32);
  EXPECT_EQ(place("cpu", "fp64").dtype, DType::f64);
  EXPECT_EQ(place("cpu", "fp64").text, "cpu, fp64");
  for (const std::string dtype : {"bf16", "fp16"})
    EXPECT_EQ(
        error_of<InputError>([&] { place("cpu", dtype); }),
        "train.dtype: '" + dtype + "' is not supported on the CPU, expected auto, fp32 or fp64");
  // A model trained in 16 bits runs there in the type of its masters.
  EXPECT_EQ(place_trained("cpu", "bf16").dtype, DType::f32);
  EXPECT_EQ(place_trained("cpu", "fp64").dtype, DType::f64);
  EXPECT_EQ(place_trained("auto", "auto").dtype, DType::f32);  // with and without a GPU
  EXPECT_EQ(error_of<InputError>([] { place_trained("gpu", "fp32"); }),
            "--device: found 'gpu', expected auto, cpu, cuda or cuda:N");
}

TEST(Placement, WithoutAGpuAutoIsTheCpuAndSaysWhy) {
  const std::string reason = cuda::unavailable();
  if (reason.empty()) GTEST_SKIP() << "there is a GPU";
  EXPECT_EQ(place("auto", "auto").text, "cpu, fp32 (" + reason + ")");
  EXPECT_EQ(error_of<RunError>([] { place("cuda", "auto"); }), "train.device: 'cuda': " + reason);
  EXPECT_EQ(error_of<RunError>([] { place_trained("cuda:1", "auto"); }),
            "--device: 'cuda:1': " + reason);
  EXPECT_NE(error_of<InputError>([] { place("auto", "bf16"); }).find(reason), std::string::npos);
}

TEST(Placement, ARunMayGoOnElsewhereButNotBetweenFp64AndTheRest) {
  const auto config = [](const std::string& device, const std::string& dtype) {
    return parse_run_config("train: {device: " + device + ", dtype: " + dtype + "}", "f");
  };
  EXPECT_TRUE(differences(config("cpu", "fp32"), config("cuda:1", "bf16")).empty());
  EXPECT_TRUE(differences(config("auto", "auto"), config("cuda", "fp16")).empty());
  EXPECT_EQ(differences(config("cpu", "fp64"), config("cpu", "fp32")).at(0),
            "train.dtype: fp64 here, fp32 there");
}

}  // namespace
}  // namespace quietformer
