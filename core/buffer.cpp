#include "core/buffer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/cuda/memory.h"

namespace quietformer {
namespace {

std::int64_t align_up(std::int64_t bytes, std::int64_t alignment = Buffer::kAlignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// "blocks.3.mlp.up" -> "blocks.*.mlp.up": one line of the report for all layers.
std::string fold_numbers(const std::string& name) {
  std::string folded;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(), [](unsigned char c) {
      return std::isdigit(c) != 0;
    });
    folded += (begin > 0 ? "." : "") + (number ? "*" : part);
    begin = end + 1;
  }
  return folded;
}

}  // namespace

Buffer::Buffer(std::int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  QF_EXPECTS(bytes >= 0);
  if (device.type == DeviceType::cuda) {
    data_ = cuda::allocate(bytes, device);
    return;
  }
  if (bytes == 0) return;
  data_ = std::aligned_alloc(kAlignment, static_cast<std::size_t>(align_up(bytes)));
  if (data_ == nullptr) throw RunError(fmt::format("out of memory: {} bytes refused", bytes));
  std::memset(data_, 0, static_cast<std::size_t>(align_up(bytes)));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

Buffer::~Buffer() {
  if (device_.type == DeviceType::cuda)
    cuda::release(data_, device_);
  else
    std::free(data_);
}

OwnedTensor::OwnedTensor(DType dtype, const Shape& shape, Device device)
    : buffer_(std::max<std::int64_t>(1, shape.count() * size_of(dtype)), device),
      view_(buffer_.data(), dtype, shape, device) {}

OwnedTensor to_device(OwnedTensor host, Device device) {
  if (device.type == DeviceType::cpu) return host;
  OwnedTensor there(host.view().dtype, host.view().shape, device);
  cuda::copy(there, host);
  return there;
}

Tensor Slot::get() const {
  if (arena_ == nullptr) return {};
  QF_EXPECTS(arena_->committed_);
  return arena_->entries_[index_].view;
}

Slot Arena::declare(std::string_view name, DType dtype, const Shape& shape, std::int64_t reserved) {
  QF_EXPECTS(!committed_);
  const int index = static_cast<int>(entries_.size());
  QF_EXPECTS(names_.emplace(std::string(name), index).second);
  Entry entry;
  entry.name = name;
  entry.view = Tensor(nullptr, dtype, shape, device_);
  entry.offset = private_bytes_;
  private_bytes_ += align_up(entry.view.bytes() + reserved * size_of(dtype), alignment_);
  entries_.push_back(std::move(entry));
  return Slot(this, index);
}

Slot Arena::declare_shared(std::string_view name, DType dtype, const Shape& shape) {
  QF_EXPECTS(!committed_);
  auto [it, added] = shared_names_.emplace(std::string(name), static_cast<int>(segments_.size()));
  if (added) segments_.emplace_back();
  Entry entry;
  entry.name = name;
  entry.view = Tensor(nullptr, dtype, shape, device_);
  entry.shared = it->second;
  Segment& segment = segments_[it->second];
  segment.bytes = std::max(segment.bytes, entry.view.bytes());
  entries_.push_back(std::move(entry));
  return Slot(this, static_cast<int>(entries_.size()) - 1);
}

void Arena::commit() {
  QF_EXPECTS(!committed_);
  std::int64_t offset = private_bytes_;
  for (Segment& segment : segments_) {
    segment.offset = offset;
    offset += align_up(segment.bytes);
  }
  try {
    buffer_ = Buffer(std::max(offset, Buffer::kAlignment), device_);
  } catch (const RunError& error) {
    throw RunError(fmt::format("{}: {}", name_, error.what()));
  }
  for (Entry& entry : entries_) {
    const std::int64_t at = entry.shared >= 0 ? segments_[entry.shared].offset : entry.offset;
    entry.view.data = static_cast<char*>(buffer_.data()) + at;
  }
  committed_ = true;
}

std::int64_t Arena::bytes() const {
  std::int64_t bytes = private_bytes_;
  for (const Segment& segment : segments_) bytes += align_up(segment.bytes);
  return bytes;
}

Tensor Arena::flat(DType dtype) const {
  QF_EXPECTS(committed_);
  for (const Entry& entry : entries_) QF_EXPECTS(entry.shared >= 0 || entry.view.dtype == dtype);
  return Tensor(buffer_.data(), dtype, {private_bytes_ / size_of(dtype)}, device_);
}

std::string Arena::report() const {
  std::map<std::string, std::int64_t> sums;
  for (const Entry& entry : entries_)
    if (entry.shared < 0) sums[fold_numbers(entry.name)] += entry.view.bytes();
  for (const auto& [name, index] : shared_names_) sums[name + " (shared)"] = segments_[index].bytes;
  std::vector<std::pair<std::string, std::int64_t>> rows(sums.begin(), sums.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text = fmt::format("{}: {:.1f} MiB\n", name_, double(bytes()) / (1 << 20));
  for (const auto& [name, bytes] : rows)
    text += fmt::format("  {:9.2f} MiB  {}\n", double(bytes) / (1 << 20), name);
  return text;
}

}  // namespace quietformer
