// Where memory lives and work runs.
#pragma once

#include <cstdint>

namespace quietformer {

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  std::int16_t index = 0;
  friend constexpr bool operator==(Device, Device) = default;
};

}  // namespace quietformer
