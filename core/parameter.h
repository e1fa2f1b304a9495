// Trainable tensors, by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/buffer.h"

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

struct Parameter {
  std::string name;  // a path, "blocks.3.attention.qkv.weight"; equals the checkpoint's name
  Slot value;
  Slot grad;
  Init init;
  Decay decay = Decay::no;
};

/// All parameters of a model in declaration order, with their memory: one arena of values and one
/// of gradients with the same layout, so that `values().flat()[i]` and `grads().flat()[i]` belong
/// together and an optimizer can treat everything in one pass.
class ParameterList {
 public:
  explicit ParameterList(DType dtype, Device device = {}) : dtype_(dtype), device_(device) {}
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  /// Declares a parameter; throws std::logic_error on a repeated name. Decay defaults by rank.
  Parameter add(std::string name, const Shape& shape, Init init);

  void commit();  // after this, slots resolve; RunError without memory
  /// Fills values, the same on every device; gradients become zero.
  void initialise(std::uint64_t seed);
  void zero_grad();

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const std::vector<Parameter>& all() const { return parameters_; }
  const Parameter* find(std::string_view name) const;  // null when absent
  std::int64_t count() const;                          // trainable scalars
  const Arena& values() const { return values_; }
  const Arena& grads() const { return grads_; }

 private:
  DType dtype_;
  Device device_;
  std::vector<Parameter> parameters_;
  Arena values_{"parameters", device_};
  Arena grads_{"gradients", device_};
};

}  // namespace quietformer
