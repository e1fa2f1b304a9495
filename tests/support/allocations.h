// Counts heap allocations of the whole test program, to show that a step makes none. Add
// allocations.cpp to the test's sources: it replaces the global operator new.
#pragma once

#include <cstdint>

namespace quietformer::test {

std::int64_t allocations();

}  // namespace quietformer::test
