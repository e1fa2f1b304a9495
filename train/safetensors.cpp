#include "train/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "train/element_types.h"
#include "train/safetensors_header.h"

namespace quietformer {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are copied as they are");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct ElementType {
  std::string_view name;
  int bytes;
  std::optional<DType> ours;
};

constexpr std::array<ElementType, 15> kTypes{{
    {"F64", 8, DType::f64},
    {"F32", 4, DType::f32},
    {"BF16", 2, DType::bf16},
    {"F16", 2, DType::f16},
    {"I64", 8, DType::i64},
    {"I32", 4, DType::i32},
    {"U16", 2, DType::u16},
    {"U8", 1, DType::u8},
    {"BOOL", 1, DType::u8},
    {"U64", 8, std::nullopt},
    {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},
    {"I8", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
}};

const ElementType* find_type(std::string_view name) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const ElementType& type) { return type.name == name; });
  return found == kTypes.end() ? nullptr : found;
}

const ElementType& type_of(DType dtype) {
  return *std::find_if(kTypes.begin(), kTypes.end(),
                       [&](const ElementType& type) { return type.ours == dtype; });
}

[[noreturn]] void refuse_tensor(const std::string& path, std::string_view tensor,
                                std::string_view what) {
  throw InputError(fmt::format("{}: tensor {}: {}", path, one_line(tensor, 100), what));
}

// Elements times bytes each; nothing when it overflows, or would but for a dimension of 0, which
// strides do not see.
std::optional<std::uint64_t> bytes_of(const SafetensorsEntry& entry, const ElementType& type) {
  std::int64_t span = type.bytes;
  bool empty = false;
  for (const std::int64_t size : entry.shape) {
    empty = empty || size == 0;
    if (__builtin_mul_overflow(span, std::max<std::int64_t>(size, 1), &span)) return std::nullopt;
  }
  return empty ? 0 : static_cast<std::uint64_t>(span);
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& path) : file_(path) {
  const std::string_view bytes = file_.bytes();
  if (bytes.size() < kLengthBytes)
    refuse(path, fmt::format("{} bytes, too short for a safetensors file", bytes.size()));
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), kLengthBytes);
  if (header > kMaxHeaderBytes)
    refuse(path, fmt::format("not a safetensors file: header of {} bytes, expected at most {}",
                             header, kMaxHeaderBytes));
  if (header > bytes.size() - kLengthBytes)
    refuse(path, fmt::format("truncated safetensors file: header of {} bytes, found {} after its "
                             "length",
                             header, bytes.size() - kLengthBytes));
  SafetensorsHeader parsed = parse_safetensors_header(bytes.substr(kLengthBytes, header), path);
  metadata_ = std::move(parsed.metadata);
  entries_ = std::move(parsed.entries);
  check_layout(bytes.substr(kLengthBytes + header));
}

// Sorted by place, every tensor begins where the one before it ends: neither overlap nor hole.
void SafetensorsReader::check_layout(std::string_view data) {
  std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t covered = 0;
  for (SafetensorsEntry& entry : entries_) {
    const ElementType* type = find_type(entry.dtype);
    if (type == nullptr)
      refuse_tensor(path(), entry.name, fmt::format("unknown dtype {}", one_line(entry.dtype, 20)));
    if (entry.begin > entry.end || entry.end > data.size())
      refuse_tensor(path(), entry.name,
                    fmt::format("data_offsets [{}, {}] do not lie in the {} bytes of data",
                                entry.begin, entry.end, data.size()));
    const auto expected = bytes_of(entry, *type);
    if (!expected || *expected != entry.end - entry.begin)
      refuse_tensor(path(), entry.name,
                    fmt::format("shape ({}) of {} does not fit data_offsets [{}, {}]",
                                fmt::join(entry.shape, ", "), entry.dtype, entry.begin, entry.end));
    if (entry.begin != covered)
      refuse_tensor(path(), entry.name,
                    fmt::format("begins at {}, expected {}: tensors {}", entry.begin, covered,
                                entry.begin < covered ? "overlap" : "leave a hole"));
    covered = entry.end;
    entry.bytes = data.substr(entry.begin, entry.end - entry.begin);
  }
  if (covered != data.size())
    refuse(path(), fmt::format("{} bytes of data, tensors cover {}", data.size(), covered));
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(),
                   [&](const SafetensorsEntry& entry) { return entry.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

const SafetensorsEntry& SafetensorsReader::require(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) refuse_tensor(path(), name, "missing");
  return *entry;
}

Shape SafetensorsReader::shape(const SafetensorsEntry& entry) const {
  if (entry.shape.size() > kMaxRank)
    refuse_tensor(path(), entry.name,
                  fmt::format("{} dimensions, expected at most {}", entry.shape.size(), kMaxRank));
  Shape shape;
  for (const std::int64_t size : entry.shape) shape[shape.rank++] = size;
  return shape;
}

DType SafetensorsReader::dtype(const SafetensorsEntry& entry) const {
  const ElementType* type = find_type(entry.dtype);
  if (!type->ours)
    refuse_tensor(path(), entry.name, fmt::format("dtype {} is not supported", entry.dtype));
  return *type->ours;
}

void SafetensorsReader::read(const SafetensorsEntry& entry, const Tensor& out) const {
  QF_EXPECTS(out.contiguous() && out.device.type == DeviceType::cpu);
  const Shape found = shape(entry);
  if (!(found == out.shape))
    refuse_tensor(
        path(), entry.name,
        fmt::format("found shape {}, expected {}", to_string(found), to_string(out.shape)));
  if (!copy_elements(dtype(entry), entry.bytes, out))
    refuse_tensor(path(), entry.name,
                  fmt::format("found dtype {}, expected {}", entry.dtype, name_of(out.dtype)));
}

namespace {

/// What the header says of a tensor, and how it is made.
struct Written {
  const std::string& name;
  DType dtype;
  Shape shape;
  std::function<void(FileWriter& file)> write;
};

void write(const std::string& path, std::vector<Written> tensors,
           const std::map<std::string, std::string>& metadata) {
  std::vector<const Written*> order;
  for (const Written& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const Written* a, const Written* b) {
    return size_of(a->dtype) > size_of(b->dtype);
  });
  SafetensorsHeader header;
  header.metadata = metadata;
  std::uint64_t offset = 0;
  for (const Written* tensor : order) {
    SafetensorsEntry entry;
    entry.name = tensor->name;
    entry.dtype = type_of(tensor->dtype).name;
    const auto sizes = tensor->shape.size.begin();
    entry.shape.assign(sizes, sizes + tensor->shape.rank);
    entry.begin = offset;
    entry.end = offset +=
        static_cast<std::uint64_t>(tensor->shape.count() * size_of(tensor->dtype));
    header.entries.push_back(std::move(entry));
  }
  std::string json = format_safetensors_header(header, path);
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  write_file_atomically(path, [&](FileWriter& file) {
    file.write({reinterpret_cast<const char*>(&length), kLengthBytes});
    file.write(json);
    for (const Written* tensor : order) tensor->write(file);
  });
}

}  // namespace

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<Written> all;
  for (const NamedTensor& named : tensors) {
    const Tensor& tensor = named.tensor;
    QF_EXPECTS(tensor.contiguous() && tensor.device.type == DeviceType::cpu);
    all.push_back({named.name, tensor.dtype, tensor.shape, [&tensor](FileWriter& file) {
                     file.write({static_cast<const char*>(tensor.data),
                                 static_cast<std::size_t>(tensor.bytes())});
                   }});
  }
  write(path, std::move(all), metadata);
}

void write_safetensors(const std::string& path, std::span<const DeferredTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<char> memory;
  std::vector<Written> all;
  for (const DeferredTensor& tensor : tensors)
    all.push_back({tensor.name, tensor.dtype, tensor.shape, [&memory, &tensor](FileWriter& file) {
                     make_tensor(tensor, memory,
                                 [&](std::string_view bytes) { file.write(bytes); });
                   }});
  write(path, std::move(all), metadata);
}

}  // namespace quietformer
