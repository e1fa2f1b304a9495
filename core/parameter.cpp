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

}  // namespace

Parameter ParameterList::add(std::string name, const Shape& shape, Init init) {
  Parameter p;
  p.value = values_.declare(name, dtype_, shape);
  p.grad = grads_.declare(name, dtype_, shape);
  p.init = init;
  p.decay = shape.rank >= 2 ? Decay::yes : Decay::no;
  p.name = std::move(name);
  parameters_.push_back(p);
  return p;
}

void ParameterList::commit() {
  values_.commit();
  grads_.commit();
}

void ParameterList::initialise(std::uint64_t seed) {
  zero_grad();
  for (const Parameter& p : parameters_) {
    const Tensor value = p.value;
    const RandomKey key = stream_key(seed, RandomPurpose::initialisation, name_hash(p.name), 0);
    if (device_.type == DeviceType::cpu) {
      fill(value, p.init, key);
    } else {
      const OwnedTensor host(dtype_, value.shape);
      fill(host, p.init, key);
      cuda::copy(value, host);
    }
  }
}

void ParameterList::zero_grad() {
  const Tensor grads = grads_.flat(dtype_);
  if (device_.type == DeviceType::cpu) return fill_zero(grads);
  Context ctx;
  ctx.device = device_;
  cuda::fill(ctx, grads, 0);
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
