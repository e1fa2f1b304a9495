#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/hdf5.h"
#include "core/hdf5_handle.h"

namespace quietformer {
namespace {

using hdf5::Handle;

constexpr std::size_t kPage = std::size_t{1} << 16;  // a multiple of any page's size

// Parts of a large image that nobody will read: HDF5 clears all of it, page by page, which takes as
// long as writing the file, and would keep as much memory as the file is long. While HDF5 builds
// the image, pages of such a part are all the same few; afterwards they are untouched zeros.
class Holes {
 public:
  // For an image of about `bytes` at `data`; the parts come out of at most some hundred mappings.
  void open(std::size_t bytes) {
#ifdef __linux__
    constexpr std::size_t kLeast = std::size_t{1} << 26, kWindow = std::size_t{1} << 21;
    if (bytes < kLeast) return;
    window_ = std::max(kWindow, bytes / 512 / kPage * kPage);
    file_ = ::memfd_create("hdf5-holes", MFD_CLOEXEC);
    if (file_ >= 0 && ::ftruncate(file_, static_cast<off_t>(window_)) != 0) window_ = 0;
#else
    (void)bytes;
#endif
  }
  Holes() = default;
  Holes(const Holes&) = delete;
  Holes& operator=(const Holes&) = delete;
  ~Holes() {
    if (file_ >= 0) ::close(file_);
  }

  // What lies in [begin, begin + bytes), to whole pages. False: memory is short.
  bool add(char* begin, std::size_t bytes) {
    if (file_ < 0 || window_ == 0) return true;
    const auto first = (reinterpret_cast<std::uintptr_t>(begin) + kPage - 1) / kPage * kPage;
    const auto last = (reinterpret_cast<std::uintptr_t>(begin) + bytes) / kPage * kPage;
    if (last < first + (std::size_t{1} << 20)) return true;  // not worth a mapping
#ifdef MAP_POPULATE
    constexpr int kShared = MAP_SHARED | MAP_FIXED | MAP_POPULATE;  // no fault page by page
#else
    constexpr int kShared = MAP_SHARED | MAP_FIXED;
#endif
    for (std::uintptr_t at = first; at < last; at += window_)
      if (::mmap(reinterpret_cast<void*>(at), std::min(window_, last - at), PROT_READ | PROT_WRITE,
                 kShared, file_, 0) == MAP_FAILED)
        return false;
    parts_.emplace_back(first, last - first);
    return true;
  }

  bool fill_with_zeros() {
    for (const auto& [begin, bytes] : parts_)
      if (::mmap(reinterpret_cast<void*>(begin), bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        return false;
    parts_.clear();
    return true;
  }
  // The image moved, and with it copies of what was in the parts.
  void forget() {
    parts_.clear();
  }

 private:
  int file_ = -1;
  std::size_t window_ = 0;
  std::vector<std::pair<std::uintptr_t, std::size_t>> parts_;
};

// The memory of HDF5's core (in-memory) file driver, kept when the driver would free it: the image
// of a large model is never copied. Memory beyond `used` was never given out and is zero, as it
// came.
struct ImageMemory {
  char* data = nullptr;
  std::size_t size = 0, used = 0, capacity = 0;
  Holes holes;

  explicit ImageMemory(std::size_t reserved) {
    if (reserved == 0) return;
    capacity = reserved + reserved / 64 + (std::size_t{1} << 20);  // and what HDF5 adds
    data = static_cast<char*>(std::calloc(capacity, 1));
    if (data == nullptr) capacity = 0;
    holes.open(capacity);
  }
  ImageMemory(const ImageMemory&) = delete;
  ImageMemory& operator=(const ImageMemory&) = delete;
  ~ImageMemory() { std::free(data); }

  bool add_hole(std::size_t begin, std::size_t bytes) {
    return begin + bytes > capacity || holes.add(data + begin, bytes);
  }

  char* resize(std::size_t to) {
    if (to > capacity) {
      char* const grown = static_cast<char*>(std::realloc(data, to));
      if (grown == nullptr) return nullptr;
      if (grown != data) holes.forget();
      data = grown;
      std::memset(data + capacity, 0, to - capacity);
      capacity = to;
    }
    // What HDF5 leaves out (gaps) is zero, so that equal contents are equal bytes.
    if (to > size && used > size) std::memset(data + size, 0, std::min(used, to) - size);
    size = to;
    used = std::max(used, to);
    return data;
  }
};

void* resize_image(void* data, std::size_t size, H5FD_file_image_op_t, void* memory) {
  ImageMemory& image = *static_cast<ImageMemory*>(memory);
  if (data != image.data && data != nullptr) return nullptr;
  return image.resize(size);
}

void* allocate_image(std::size_t size, H5FD_file_image_op_t operation, void* memory) {
  return resize_image(nullptr, size, operation, memory);
}

void* copy_image(void*, const void*, std::size_t, H5FD_file_image_op_t, void*) {
  return nullptr;
}

herr_t keep_image(void*, H5FD_file_image_op_t, void*) {
  return 0;
}

void* share_memory(void* memory) {
  return memory;
}

herr_t leave_memory(void*) {
  return 0;
}

Handle make_access(ImageMemory* memory) {
  constexpr std::size_t kIncrement = 1 << 12;
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5FD_file_image_callbacks_t callbacks{allocate_image, copy_image,   resize_image, keep_image,
                                        share_memory,   leave_memory, memory};
  // V18: groups and attributes of any size, compact headers, read by every HDF5 since 2008.
  if (H5Pset_fapl_core(access.get(), kIncrement, 0) < 0 ||
      H5Pset_file_image_callbacks(access.get(), &callbacks) < 0 ||
      H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18) < 0)
    return Handle();
  return access;
}

constexpr unsigned kOrder = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;

Handle make_space(const Shape& shape) {
  if (shape.rank == 0) return Handle(H5Screate(H5S_SCALAR), H5Sclose);
  hsize_t sizes[kMaxRank];
  for (int i = 0; i < shape.rank; ++i) sizes[i] = static_cast<hsize_t>(shape[i]);
  return Handle(H5Screate_simple(shape.rank, sizes, nullptr), H5Sclose);
}

}  // namespace

struct Hdf5Writer::State {
  std::string name;
  std::size_t user_block = 0;
  ImageMemory memory;  // outlives the file
  explicit State(std::size_t reserved) : memory(reserved) {}
  Handle group_creation, link_creation, tensor_creation, reserved_creation, text_creation;
  Handle file;

  ~State() {
    const std::lock_guard lock(hdf5::library_mutex());
    for (Handle* handle : {&file, &group_creation, &link_creation, &tensor_creation,
                           &reserved_creation, &text_creation})
      *handle = Handle();
  }
  [[noreturn]] void fail(const std::string& path) const {
    throw RunError(
        fmt::format("{}: {}: cannot be written: HDF5 says: {}", name, path, hdf5::last_error()));
  }
  void expect(bool ok, const std::string& path) const {
    if (!ok) fail(path);
  }
  Handle open(const std::string& path) const {
    Handle object(H5Oopen(file.get(), path.c_str(), H5P_DEFAULT), H5Oclose);
    expect(object.valid(), path);
    return object;
  }
  // With its parents, one by one: those that H5Dcreate makes on the way would not keep their order.
  void make_group(const std::string& path) const {
    for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string prefix = path.substr(0, end);
      if (prefix.size() > 1 && H5Lexists(file.get(), prefix.c_str(), H5P_DEFAULT) <= 0) {
        const Handle made(H5Gcreate2(file.get(), prefix.c_str(), link_creation.get(),
                                     group_creation.get(), H5P_DEFAULT),
                          H5Gclose);
        expect(made.valid(), prefix);
      }
      if (end == std::string::npos) return;
    }
  }
  Handle create_dataset(const std::string& path, hid_t type, const Handle& space,
                        const Handle& creation) const {
    QF_EXPECTS(path.size() > 1 && path.front() == '/' && path.back() != '/');
    QF_EXPECTS(path.find('\0') == std::string::npos);
    make_group(path.substr(0, path.rfind('/')));
    Handle set(H5Dcreate2(file.get(), path.c_str(), type, space.get(), link_creation.get(),
                          creation.get(), H5P_DEFAULT),
               H5Dclose);
    expect(set.valid(), path);
    return set;
  }
  void write_attribute(const Handle& object, const std::string& path, const std::string& attribute,
                       hid_t type, const Handle& space, const void* data) const {
    Handle made(
        H5Acreate2(object.get(), attribute.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
        H5Aclose);
    expect(made.valid() && H5Awrite(made.get(), type, data) >= 0, path);
  }
  void write_attribute(const Handle& object, const std::string& path, const std::string& attribute,
                       const Hdf5Attribute& value) const;
};

void Hdf5Writer::State::write_attribute(const Handle& object, const std::string& path,
                                        const std::string& attribute,
                                        const Hdf5Attribute& value) const {
  const auto scalar = [&](hid_t type, const void* data) {
    write_attribute(object, path, attribute, type, make_space({}), data);
  };
  const auto list = [&](hid_t type, const auto& items) {
    // HDF5 wants an address even for nothing.
    const void* data = items.empty() ? static_cast<const void*>(&type) : items.data();
    write_attribute(object, path, attribute, type,
                    make_space({static_cast<std::int64_t>(items.size())}), data);
  };
  const Handle text = hdf5::string_type(H5T_VARIABLE);
  if (const auto* one = std::get_if<std::string>(&value)) {
    const char* data = one->c_str();
    scalar(text.get(), &data);
  } else if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    scalar(H5T_STD_I64LE, integer);
  } else if (const auto* number = std::get_if<double>(&value)) {
    scalar(H5T_IEEE_F64LE, number);
  } else if (const auto* strings = std::get_if<std::vector<std::string>>(&value)) {
    std::vector<const char*> data;
    for (const std::string& item : *strings) data.push_back(item.c_str());
    list(text.get(), data);
  } else if (const auto* integers = std::get_if<std::vector<std::int64_t>>(&value)) {
    list(H5T_STD_I64LE, *integers);
  } else {
    list(H5T_IEEE_F64LE, std::get<std::vector<double>>(value));
  }
}

Hdf5Writer::Hdf5Writer(std::string name, std::size_t user_block, std::size_t reserved)
    : state_(std::make_unique<State>(reserved)) {
  const std::lock_guard lock(hdf5::library_mutex());
  State& s = *state_;
  s.name = std::move(name);
  s.user_block = user_block;
  const Handle access = make_access(&s.memory);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  s.group_creation = Handle(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  s.link_creation = Handle(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  s.tensor_creation = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  s.text_creation = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  s.reserved_creation = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const bool ready = access.valid() && H5Pset_userblock(creation.get(), user_block) >= 0 &&
                     H5Pset_link_creation_order(creation.get(), kOrder) >= 0 &&
                     H5Pset_link_creation_order(s.group_creation.get(), kOrder) >= 0 &&
                     H5Pset_char_encoding(s.link_creation.get(), H5T_CSET_UTF8) >= 0 &&
                     H5Pset_obj_track_times(creation.get(), false) >= 0 &&
                     H5Pset_obj_track_times(s.group_creation.get(), false) >= 0 &&
                     H5Pset_obj_track_times(s.tensor_creation.get(), false) >= 0 &&
                     H5Pset_obj_track_times(s.text_creation.get(), false) >= 0 &&
                     H5Pset_fill_time(s.tensor_creation.get(), H5D_FILL_TIME_NEVER) >= 0 &&
                     H5Pset_obj_track_times(s.reserved_creation.get(), false) >= 0 &&
                     H5Pset_fill_time(s.reserved_creation.get(), H5D_FILL_TIME_NEVER) >= 0 &&
                     H5Pset_alloc_time(s.reserved_creation.get(), H5D_ALLOC_TIME_EARLY) >= 0;
  s.expect(ready, "/");
  s.file = Handle(
      H5Fcreate(hdf5::image_name().c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
  s.expect(s.file.valid(), "/");
}

Hdf5Writer::~Hdf5Writer() = default;

void Hdf5Writer::group(const std::string& path) {
  const std::lock_guard lock(hdf5::library_mutex());
  QF_EXPECTS(!path.empty() && path.front() == '/');
  state_->make_group(path);
}

void Hdf5Writer::tensor(const std::string& path, const Tensor& value) {
  QF_EXPECTS(value.contiguous() && value.device.type == DeviceType::cpu);
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle set = state_->create_dataset(path, hdf5::file_type(value.dtype),
                                            make_space(value.shape), state_->tensor_creation);
  if (value.count() > 0)
    state_->expect(H5Dwrite(set.get(), hdf5::memory_type(value.dtype), H5S_ALL, H5S_ALL,
                            H5P_DEFAULT, value.data) >= 0,
                   path);
  if (value.dtype == DType::bf16 || value.dtype == DType::f16)
    state_->write_attribute(set, path, hdf5::kDTypeAttribute, std::string(name_of(value.dtype)));
}

std::size_t Hdf5Writer::reserve(const std::string& path, DType dtype, const Shape& shape) {
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle set = state_->create_dataset(path, hdf5::file_type(dtype), make_space(shape),
                                            state_->reserved_creation);
  if (dtype == DType::bf16 || dtype == DType::f16)
    state_->write_attribute(set, path, hdf5::kDTypeAttribute, std::string(name_of(dtype)));
  if (shape.count() == 0) return 0;
  const haddr_t offset = H5Dget_offset(set.get());  // counts the user block
  state_->expect(offset != HADDR_UNDEF, path);
  const auto bytes = static_cast<std::size_t>(shape.count() * size_of(dtype));
  if (!state_->memory.add_hole(static_cast<std::size_t>(offset), bytes))
    throw RunError(fmt::format("{}: {}: no memory for its place in the file", state_->name, path));
  return static_cast<std::size_t>(offset);
}

void Hdf5Writer::text(const std::string& path, std::string_view value) {
  QF_EXPECTS(value.find('\0') == std::string_view::npos);
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle type = hdf5::string_type(H5T_VARIABLE);
  const Handle set =
      state_->create_dataset(path, type.get(), make_space({}), state_->text_creation);
  const std::string terminated(value);
  const char* data = terminated.c_str();
  state_->expect(H5Dwrite(set.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, &data) >= 0, path);
}

void Hdf5Writer::attribute(const std::string& path, const std::string& name,
                           const Hdf5Attribute& value) {
  const std::lock_guard lock(hdf5::library_mutex());
  state_->write_attribute(state_->open(path), path, name, value);
}

Hdf5Image Hdf5Writer::finish() {
  const std::lock_guard lock(hdf5::library_mutex());
  State& s = *state_;
  s.expect(H5Fflush(s.file.get(), H5F_SCOPE_GLOBAL) >= 0, "/");
  // This length counts from the end of the user block, like all addresses in the file.
  const ssize_t length = H5Fget_file_image(s.file.get(), nullptr, 0);
  s.expect(length >= 0 && s.file.close(), "/");
  const std::size_t size = static_cast<std::size_t>(length) + s.user_block;
  QF_EXPECTS(size <= s.memory.size);
  if (!s.memory.holes.fill_with_zeros())
    throw RunError(fmt::format("{}: no memory for an image of {} bytes", s.name, size));
  return Hdf5Image(std::exchange(s.memory.data, nullptr), size);
}

}  // namespace quietformer
