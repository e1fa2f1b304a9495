// Trainable tensors, by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/context.h"

namespace quietformer {

/// How a parameter starts. `normal` draws N(0, std^2); element e of parameter `name` uses a Philox
/// stream keyed by (seed, hash of the name) and counter e, so a layer added elsewhere changes
/// nothing.
struct Init {
  enum class Kind : std::uint8_t { constant, normal } kind = Kind::constant;
  double value = 0;  // the constant, or the standard deviation
  /// Elements from index `tail` on are multiplied by `tail_gain`: packed weights (q, k and v in
  /// one) whose parts start at different scales.
  std::int64_t tail = 0;
  double tail_gain = 1;
  static Init constant(double v) { return {Kind::constant, v, 0, 1}; }
  static Init normal(double std) { return {Kind::normal, std, 0, 1}; }
  Init with_tail(std::int64_t first, double gain) const { return {kind, value, first, gain}; }
};

/// Whether AdamW's decoupled weight decay applies: by default to tensors of two or more dimensions.
enum class Decay : std::uint8_t { no, yes };

/// Whether rows of zeros follow a parameter on a GPU, up to a multiple of kRowPadding (values and
/// masters; in gradients products may add zeros to them): products of odd sizes are several times
/// slower there. Matrices have them always; a vector that goes with a padded matrix needs them.
inline constexpr std::int64_t kRowPadding = 64;
enum class RowPadding : std::uint8_t { matrices, yes };

struct Parameter {
  std::string name;  // a path, "blocks.3.attention.qkv.weight"; equals the checkpoint's name
  Shape shape;
  Slot value;   // what layers multiply with, in the list's type
  Slot master;  // what the optimizer updates and checkpoints hold; `value` itself in f32 and f64
  Slot grad;
  Init init;
  Decay decay = Decay::no;
  std::int64_t padding = 0;  // elements that follow it in every arena, besides alignment
};

/// All parameters of a model in declaration order, with their memory: one arena of values and one
/// of gradients with the same layout, so that `values().flat()[i]` and `grads().flat()[i]` belong
/// together and an optimizer can treat everything in one pass.
///
/// With bf16 or f16 values, which need a GPU, there is a third arena of masters in f32, again with
/// that layout: the values are the masters rounded, and gradients are f32 too. Layers read masters
/// where a parameter goes with sums (norms, gains, head parameters), values where it is multiplied
/// or looked up.
class ParameterList {
 public:
  /// InputError for bf16 and f16 on the CPU.
  explicit ParameterList(DType dtype, Device device = {});
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  /// Declares a parameter; throws std::logic_error on a repeated name. Decay defaults by rank.
  Parameter add(std::string name, const Shape& shape, Init init,
                RowPadding rows = RowPadding::matrices);

  void commit();  // after this, slots resolve; RunError without memory
  /// Fills masters and values, the same on every device; gradients become zero. Waits for a GPU.
  void initialise(std::uint64_t seed);
  /// In the order of ctx.stream's work, or waiting for the whole GPU.
  void zero_grad(const Context& ctx);
  void zero_grad();
  /// Writes the masters, rounded, to the values: after something else than an optimizer changed
  /// masters. Nothing to do in f32 and f64.
  void update_values(const Context& ctx);

  DType dtype() const { return dtype_; }                             // of values
  DType master_dtype() const { return accumulation_dtype(dtype_); }  // of masters and gradients
  Device device() const { return device_; }
  const std::vector<Parameter>& all() const { return parameters_; }
  const Parameter* find(std::string_view name) const;  // null when absent
  std::int64_t count() const;                          // trainable scalars
  const Arena& values() const { return values_; }
  const Arena& masters() const { return dtype_ == master_dtype() ? values_ : masters_; }
  const Arena& grads() const { return grads_; }

 private:
  DType dtype_;
  Device device_;
  std::vector<Parameter> parameters_;
  // Flat indices agree when alignments are the same number of elements.
  std::int64_t alignment_ = Buffer::kAlignment * (size_of(master_dtype()) / size_of(dtype_));
  Arena values_{"parameters", device_};
  Arena masters_{"master parameters", device_, alignment_};
  Arena grads_{"gradients", device_, alignment_};
};

}  // namespace quietformer
