#include "core/parameter.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "core/cuda/memory.h"
#include "core/random.h"

namespace quietformer {
namespace {

// FNV-1a: names the stream of a parameter independently of declaration order.
std::uint32_t name_hash(std::string_view name) {
  std::uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

template <class T>
void fill_normal(T* out, std::int64_t count, double std, RandomKey key) {
  // Box-Muller in double: two normals from two 32-bit words, so fp32 and fp64 models start alike.
  constexpr double kInverse = 1.0 / 4294967296.0;
  for (std::int64_t i = 0; i < count; i += 4) {
    const Philox4 bits =
        philox(key, static_cast<std::uint32_t>(i >> 2), static_cast<std::uint32_t>(i >> 34), 0, 0);
    for (int pair = 0; pair < 2; ++pair) {
      const double u = (bits.word[2 * pair] + 0.5) * kInverse;
      const double angle = 2 * std::numbers::pi * bits.word[2 * pair + 1] * kInverse;
      const double radius = std * std::sqrt(-2 * std::log(u));
      if (i + 2 * pair < count) out[i + 2 * pair] = static_cast<T>(float(radius * std::cos(angle)));
      if (i + 2 * pair + 1 < count)
        out[i + 2 * pair + 1] = static_cast<T>(float(radius * std::sin(angle)));
    }
  }
}

/// A host tensor as `init` says.
void fill(const Tensor& value, const Init& init, RandomKey key) {
  dispatch_floating(value.dtype, [&]<class T>() {
    if (init.kind == Init::Kind::constant) {
      for (std::int64_t i = 0; i < value.count(); ++i) value.as<T>()[i] = T(init.value);
    } else {
      fill_normal(value.as<T>(), value.count(), init.value, key);
    }
    if (init.tail_gain != 1)
      for (std::int64_t i = init.tail; i < value.count(); ++i)
        value.as<T>()[i] = static_cast<T>(float(value.as<T>()[i] * init.tail_gain));
  });
}

std::int64_t padding_of(const Shape& shape, RowPadding rows, Device device) {
  if (device.type == DeviceType::cpu || (shape.rank != 2 && rows != RowPadding::yes)) return 0;
  return (kRowPadding - shape[0] % kRowPadding) % kRowPadding * (shape.count() / shape[0]);
}

}  // namespace

ParameterList::ParameterList(DType dtype, Device device) : dtype_(dtype), device_(device) {
  if (dtype != master_dtype() && device.type == DeviceType::cpu)
    throw InputError(std::string(name_of(dtype)) +
                     " parameters: found the CPU, which computes in f32 and f64; expected a GPU");
}

Parameter ParameterList::add(std::string name, const Shape& shape, Init init, RowPadding rows) {
  const std::int64_t padding = padding_of(shape, rows, device_);
  Parameter p;
  p.shape = shape;
  p.padding = padding;
  p.value = values_.declare(name, dtype_, shape, padding);
  p.master =
      dtype_ == master_dtype() ? p.value : masters_.declare(name, master_dtype(), shape, padding);
  p.grad = grads_.declare(name, master_dtype(), shape, padding);
  p.init = init;
  p.decay = shape.rank >= 2 ? Decay::yes : Decay::no;
  p.name = std::move(name);
  parameters_.push_back(p);
  return p;
}

void ParameterList::commit() {
  values_.commit();
  if (dtype_ != master_dtype()) masters_.commit();
  grads_.commit();
}

void ParameterList::initialise(std::uint64_t seed) {
  zero_grad();
  for (const Parameter& p : parameters_) {
    const Tensor master = p.master;
    const RandomKey key = stream_key(seed, RandomPurpose::initialisation, name_hash(p.name), 0);
    if (device_.type == DeviceType::cpu) {
      fill(master, p.init, key);
    } else {
      const OwnedTensor host(master.dtype, master.shape);
      fill(host, p.init, key);
      cuda::copy(master, host);
    }
  }
  if (dtype_ == master_dtype()) return;
  Context ctx;
  ctx.device = device_;
  update_values(ctx);
  cuda::synchronize(device_);
}

void ParameterList::zero_grad(const Context& ctx) {
  QF_EXPECTS(ctx.device == device_);
  const Tensor grads = grads_.flat(master_dtype());
  if (device_.type == DeviceType::cpu) return fill_zero(grads);
  cuda::fill(ctx, grads, 0);
}

void ParameterList::zero_grad() {
  Context ctx;
  ctx.device = device_;
  if (device_.type == DeviceType::cuda) cuda::synchronize(device_);
  zero_grad(ctx);
  if (device_.type == DeviceType::cuda) cuda::synchronize(device_);
}

void ParameterList::update_values(const Context& ctx) {
  QF_EXPECTS(ctx.device == device_);
  if (dtype_ == master_dtype()) return;
  cuda::convert(ctx, values_.flat(dtype_), masters_.flat(master_dtype()));
}

const Parameter* ParameterList::find(std::string_view name) const {
  for (const Parameter& p : parameters_)
    if (p.name == name) return &p;
  return nullptr;
}

std::int64_t ParameterList::count() const {
  std::int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.value.get().count();
  return n;
}

}  // namespace quietformer
