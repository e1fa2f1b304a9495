// Statistics of activations on a GPU. Host code: includes nothing of CUDA; in a build without CUDA
// (absent.cpp) every call is the RunError of core/cuda/memory.h. Nothing here waits for the GPU,
// and numbers are added in an order that depends on sizes alone.
#pragma once

#include <cstdint>
#include <span>

#include "analysis/site_cut.h"
#include "core/context.h"

namespace quietformer {

/// A recorded site: its parts, and where its sums go.
struct SiteParts {
  const Moments* parts = nullptr;
  SampleSums* sums = nullptr;  // of all numbers; then, if `heads`, of every unit
  std::int64_t samples = 0, units = 0, parts_of_unit = 0;
  bool heads = false;
  bool first = false;  // overwrite the sums instead of adding to them
};

}  // namespace quietformer

namespace quietformer {
struct Grid;         // quantization.h
struct ValueCounts;  // quantization_range.h
}  // namespace quietformer

namespace quietformer::cuda {

/// How many Moments each unit of such a cut is taken in: some 2000 in all, each of 32 KiB or more.
std::int64_t parts_of_unit(const SiteCut& cut, DType dtype);

/// parts[(sample * units + unit) * parts_of_unit + i]: the moments of stretches of `value` (f64,
/// f32, bf16 or f16), which is read once. Numbers are centred near their stretch's mean before they
/// are multiplied; f64 is added up in f64, the other types in f32 by at most 32 numbers and in f64
/// from there on. `parts` is device memory, `validity` u8 (samples, rows) there when the cut is
/// masked, and `limits` there too.
void site_moments(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
                  const Tensor& validity, const OutlierLimits* limits);

/// Adds all samples of all sites to their sums, in one launch per 64 sites.
void add_samples(const Context& ctx, std::span<const SiteParts> sites);

/// quantization.cu: the functions of the same names in quantization.h and quantization_range.h,
/// which have checked shapes and types. Matrices (rows, columns) with unit inner stride, f32 or
/// f64.
void fake_quantize(const Context& ctx, const Tensor& out, const Tensor& in, const Grid& grid);
void observe(const Context& ctx, const ValueCounts& counts, const Tensor& value);

}  // namespace quietformer::cuda
