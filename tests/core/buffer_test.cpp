#include "core/buffer.h"

#include <gtest/gtest.h>

#include "core/parameter.h"

namespace quietformer {
namespace {

TEST(Arena, PrivateTensorsAreApartAndSharedOnesOverlap) {
  Arena arena("test");
  const Slot a = arena.declare("a", DType::f32, {3}), b = arena.declare("b", DType::f64, {5});
  const Slot s = arena.declare_shared("s", DType::f32, {100});
  const Slot t = arena.declare_shared("s", DType::f64, {100});
  EXPECT_THROW(arena.declare("a", DType::f32, {1}), std::logic_error);
  EXPECT_THROW(a.get(), std::logic_error);
  arena.commit();
  EXPECT_EQ(s.get().data, t.get().data);
  EXPECT_NE(a.get().data, b.get().data);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.get().data) % Buffer::kAlignment, 0u);
  EXPECT_EQ(arena.bytes(), 64 + 64 + 832);
  EXPECT_FALSE(Tensor(Slot()));
}

TEST(Parameters, InitialisationDependsOnSeedAndNameOnly) {
  ParameterList one(DType::f32), two(DType::f32);
  const Parameter x = one.add("x", {64, 64}, Init::normal(0.02));
  two.add("other", {3}, Init::constant(1));
  const Parameter y = two.add("x", {64, 64}, Init::normal(0.02));
  one.commit(), two.commit();
  one.initialise(5), two.initialise(5);
  double mean = 0, square = 0;
  for (int i = 0; i < 4096; ++i) {
    const float v = x.value.get().as<float>()[i];
    EXPECT_EQ(v, y.value.get().as<float>()[i]);
    mean += v / 4096;
    square += double(v) * v / 4096;
  }
  EXPECT_NEAR(mean, 0, 1e-3);
  EXPECT_NEAR(square, 4e-4, 4e-5);
  EXPECT_EQ(x.decay, Decay::yes);
  EXPECT_EQ(two.count(), 64 * 64 + 3);
}

TEST(Shape, SlicesAndTransposesAreViews) {
  OwnedTensor t(DType::f32, {2, 3, 4});
  const Tensor part = t.view().slice(1, 1, 2).transpose(0, 1);
  EXPECT_EQ(part.shape, (Shape{2, 2, 4}));
  EXPECT_EQ(part.data, t.as<float>() + 4);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(to_string(part.shape), "(2, 2, 4)");
}

}  // namespace
}  // namespace quietformer
