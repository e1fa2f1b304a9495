#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "core/check.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "core/hdf5_handle.h"
#include "core/log.h"

namespace quietformer {
namespace {

using hdf5::Handle;
using Kind = Hdf5Entry::Kind;

// Callbacks of HDF5's core (in-memory) file driver that make it work on our bytes in place: every
// "allocation" is the image itself and every copy has source = destination.
struct BorrowedImage {
  void* data = nullptr;
  std::size_t size = 0;
};

void* lend_image(std::size_t size, H5FD_file_image_op_t, void* image) {
  const BorrowedImage& lent = *static_cast<BorrowedImage*>(image);
  return size == lent.size ? lent.data : nullptr;
}

void* copy_in_place(void* to, const void* from, std::size_t, H5FD_file_image_op_t, void*) {
  return to == from ? to : nullptr;
}

void* refuse_resize(void*, std::size_t, H5FD_file_image_op_t, void*) {
  return nullptr;
}

herr_t keep_image(void*, H5FD_file_image_op_t, void*) {
  return 0;
}

void* share_image(void* image) {
  return image;
}

herr_t leave_image(void*) {
  return 0;
}

// Invalid on failure, with HDF5's reason in `error`.
Handle open_image(BorrowedImage* image, std::string& error) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5FD_file_image_callbacks_t callbacks{lend_image,  copy_in_place, refuse_resize, keep_image,
                                        share_image, leave_image,   image};
  Handle file;
  if (H5Pset_fapl_core(access.get(), 1 << 12, 0) >= 0 &&
      H5Pset_file_image_callbacks(access.get(), &callbacks) >= 0 &&
      H5Pset_file_image(access.get(), image->data, image->size) >= 0)
    file = Handle(H5Fopen(hdf5::image_name().c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file.valid()) error = hdf5::last_error();  // closing `access` would clear it
  return file;
}

// The element type of a dataset or attribute, as far as it is one of ours.
std::optional<DType> plain_dtype(hid_t type) {
  const H5T_class_t kind = H5Tget_class(type);
  const std::size_t size = H5Tget_size(type);
  if (kind == H5T_FLOAT) {
    if (H5Tequal(type, H5T_IEEE_F64LE) > 0 || H5Tequal(type, H5T_IEEE_F64BE) > 0) return DType::f64;
    if (H5Tequal(type, H5T_IEEE_F32LE) > 0 || H5Tequal(type, H5T_IEEE_F32BE) > 0) return DType::f32;
  } else if (kind == H5T_INTEGER) {
    const bool has_sign = H5Tget_sign(type) == H5T_SGN_2;
    if (size == 8 && has_sign) return DType::i64;
    if (size == 4 && has_sign) return DType::i32;
    if (size == 2 && !has_sign) return DType::u16;
    if (size == 1 && !has_sign) return DType::u8;
  }
  return std::nullopt;
}

// Groups with several links can contain themselves.
bool has_one_link(hid_t object) {
#if H5_VERSION_GE(1, 12, 0)
  H5O_info2_t info{};
  return H5Oget_info3(object, &info, H5O_INFO_BASIC) >= 0 && info.rc <= 1;
#else
  H5O_info_t info{};
  return H5Oget_info2(object, &info, H5O_INFO_BASIC) >= 0 && info.rc <= 1;
#endif
}

struct Extent {
  bool is_null = false;
  std::vector<hsize_t> sizes;  // empty: a scalar
  std::size_t count = 1;       // saturates
  std::size_t span = 1;        // the same with 1 for each 0: strides stay below it
};

Extent extent_of(hid_t space) {
  Extent extent;
  if (H5Sget_simple_extent_type(space) == H5S_NULL) {
    extent.is_null = true;
    extent.count = 0;
    return extent;
  }
  extent.sizes.resize(static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space))));
  if (!extent.sizes.empty()) H5Sget_simple_extent_dims(space, extent.sizes.data(), nullptr);
  for (const hsize_t size : extent.sizes) {
    if (__builtin_mul_overflow(extent.count, size, &extent.count)) extent.count = SIZE_MAX;
    if (__builtin_mul_overflow(extent.span, std::max<hsize_t>(size, 1), &extent.span))
      extent.span = SIZE_MAX;
  }
  return extent;
}

// Reads `count` strings of a dataset or attribute through `transfer(memory type, buffer)`.
template <class Transfer>
std::optional<std::vector<std::string>> read_strings(hid_t type, std::size_t count,
                                                     Transfer&& transfer) {
  std::vector<std::string> strings;
  if (H5Tis_variable_str(type) > 0) {
    const Handle memory = hdf5::string_type(H5T_VARIABLE);
    std::vector<char*> pointers(count, nullptr);
    const bool ok = H5Tset_cset(memory.get(), H5Tget_cset(type)) >= 0 &&
                    transfer(memory.get(), static_cast<void*>(pointers.data()));
    for (char* text : pointers) {
      strings.emplace_back(text == nullptr ? "" : text);
      H5free_memory(text);
    }
    if (!ok) return std::nullopt;
    return strings;
  }
  const std::size_t size = H5Tget_size(type);
  std::string block(size * count, '\0');
  if (!transfer(type, static_cast<void*>(block.data()))) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) {
    std::string text = block.substr(i * size, size);
    strings.push_back(text.substr(0, text.find('\0')));
  }
  return strings;
}

template <class T>
std::optional<Hdf5Attribute> read_numbers(hid_t attribute, hid_t type, const Extent& extent) {
  std::vector<T> values(extent.count);
  T nothing{};
  if (H5Aread(attribute, type, values.empty() ? &nothing : values.data()) < 0) return std::nullopt;
  if (extent.sizes.empty() && !values.empty()) return Hdf5Attribute(values[0]);
  return Hdf5Attribute(std::move(values));
}

// Null when it is of a type or size that no attribute of ours has.
std::optional<Hdf5Attribute> read_attribute(hid_t attribute) {
  constexpr std::size_t kMost = 1 << 20;
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const Extent extent = extent_of(space.get());
  if (!type.valid() || !space.valid() || extent.sizes.size() > 1 || extent.is_null ||
      extent.count > kMost)
    return std::nullopt;
  switch (H5Tget_class(type.get())) {
    case H5T_STRING: {
      auto strings = read_strings(type.get(), extent.count, [&](hid_t memory, void* out) {
        return extent.count == 0 || H5Aread(attribute, memory, out) >= 0;
      });
      if (!strings) return std::nullopt;
      if (extent.sizes.empty()) return Hdf5Attribute(std::move((*strings)[0]));
      return Hdf5Attribute(std::move(*strings));
    }
    case H5T_INTEGER:
      return read_numbers<std::int64_t>(attribute, H5T_NATIVE_INT64, extent);
    case H5T_FLOAT:
      return read_numbers<double>(attribute, H5T_NATIVE_DOUBLE, extent);
    default:
      return std::nullopt;
  }
}

}  // namespace

struct Hdf5Reader::State {
  std::string name;
  std::optional<MappedFile> mapping;
  BorrowedImage image;
  Handle file;

  ~State() {
    const std::lock_guard lock(hdf5::library_mutex());
    file = Handle();
  }
  [[noreturn]] void fail(const std::string& path, std::string_view what) const {
    throw InputError(fmt::format("{}: {}: {}", name, one_line(path), what));
  }
  [[noreturn]] void fail_reading(const std::string& path) const {
    fail(path, "cannot be read: HDF5 says: " + hdf5::last_error());
  }
  void open(std::string_view bytes);
  bool contains(const std::string& path) const;
  Handle open_object(const std::string& path) const;
  Handle open_dataset(const std::string& path) const;
  Hdf5Entry describe(const Handle& object, const std::string& path) const;
  DType dtype_of_dataset(const Handle& set, hid_t type) const;
  void require_stored(const Handle& set, const std::string& path, std::size_t bytes) const;
  void read(const std::string& path, const Tensor& out) const;
};

void Hdf5Reader::State::open(std::string_view bytes) {
  if (bytes.empty()) throw InputError(fmt::format("{}: empty, expected an HDF5 file", name));
  // The driver wants a pointer to non-const; it opens the file for reading only.
  image = {const_cast<char*>(bytes.data()), bytes.size()};
  std::string error;
  file = open_image(&image, error);
  if (!file.valid())
    throw InputError(fmt::format("{}: cannot be opened as HDF5: HDF5 says: {}", name, error));
}

// Component by component, because H5Lexists fails on a missing parent.
bool Hdf5Reader::State::contains(const std::string& path) const {
  QF_EXPECTS(!path.empty() && path.front() == '/');
  if (path.size() == 1) return true;
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string prefix = path.substr(0, end);
    H5L_info_t link;
    if (H5Lexists(file.get(), prefix.c_str(), H5P_DEFAULT) <= 0 ||
        H5Lget_info(file.get(), prefix.c_str(), &link, H5P_DEFAULT) < 0 ||
        link.type != H5L_TYPE_HARD) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    if (end == std::string::npos) return true;
  }
}

Handle Hdf5Reader::State::open_object(const std::string& path) const {
  if (!contains(path)) fail(path, "not in the file");
  Handle object(H5Oopen(file.get(), path.c_str(), H5P_DEFAULT), H5Oclose);
  if (!object.valid()) fail_reading(path);
  return object;
}

Handle Hdf5Reader::State::open_dataset(const std::string& path) const {
  Handle object = open_object(path);
  if (H5Iget_type(object.get()) != H5I_DATASET) fail(path, "is a group, expected a dataset");
  return object;
}

DType Hdf5Reader::State::dtype_of_dataset(const Handle& set, hid_t type) const {
  const DType plain = *plain_dtype(type);
  if (plain != DType::u16 || H5Aexists(set.get(), hdf5::kDTypeAttribute) <= 0) return plain;
  const Handle attribute(H5Aopen(set.get(), hdf5::kDTypeAttribute, H5P_DEFAULT), H5Aclose);
  const auto value = read_attribute(attribute.get());
  const std::string* named = value ? std::get_if<std::string>(&*value) : nullptr;
  if (named != nullptr && *named == name_of(DType::bf16)) return DType::bf16;
  if (named != nullptr && *named == name_of(DType::f16)) return DType::f16;
  return plain;
}

Hdf5Entry Hdf5Reader::State::describe(const Handle& object, const std::string& path) const {
  Hdf5Entry entry;
  entry.name = path.substr(path.rfind('/') + 1);
  const H5I_type_t kind = H5Iget_type(object.get());
  if (kind == H5I_GROUP && has_one_link(object.get())) entry.kind = Kind::group;
  if (kind != H5I_DATASET) return entry;

  const Handle type(H5Dget_type(object.get()), H5Tclose);
  const Handle space(H5Dget_space(object.get()), H5Sclose);
  const Handle creation(H5Dget_create_plist(object.get()), H5Pclose);
  if (!type.valid() || !space.valid() || !creation.valid()) fail_reading(path);
  // Contents in other files (external storage, virtual datasets) stay unread.
  if (H5Pget_layout(creation.get()) == H5D_VIRTUAL || H5Pget_external_count(creation.get()) > 0)
    return entry;
  const Extent extent = extent_of(space.get());
  if (H5Tget_class(type.get()) == H5T_STRING && extent.sizes.empty() && !extent.is_null) {
    entry.kind = Kind::text;
  } else if (plain_dtype(type.get()) && !extent.is_null && extent.sizes.size() <= kMaxRank &&
             extent.span <= static_cast<std::size_t>(INT64_MAX) / 8) {
    entry.kind = Kind::tensor;
    entry.dtype = dtype_of_dataset(object, type.get());
    for (const hsize_t size : extent.sizes)
      entry.shape[entry.shape.rank++] = static_cast<std::int64_t>(size);
  }
  return entry;
}

// A dataset may claim any size without a byte in the file (HDF5 would make its values up): nothing
// is allocated for what cannot be there.
void Hdf5Reader::State::require_stored(const Handle& set, const std::string& path,
                                       std::size_t bytes) const {
  constexpr std::size_t kMostPerByte = 1032;  // deflate packs no better; only chunks are packed
  const Handle creation(H5Dget_create_plist(set.get()), H5Pclose);
  const std::size_t stored = H5Dget_storage_size(set.get());
  const bool chunked = H5Pget_layout(creation.get()) == H5D_CHUNKED;
  if ((chunked ? bytes / kMostPerByte : bytes) > stored || (bytes > 0 && stored == 0))
    fail(path, fmt::format("{} bytes are stored, expected {}", stored, bytes));
}

void Hdf5Reader::State::read(const std::string& path, const Tensor& out) const {
  QF_EXPECTS(out.contiguous() && out.device.type == DeviceType::cpu);
  const Handle set = open_dataset(path);
  const Hdf5Entry found = describe(set, path);
  if (found.kind != Kind::tensor) fail(path, "not a tensor of a supported type");
  if (found.dtype != out.dtype || !(found.shape == out.shape))
    fail(path, fmt::format("found {} {}, expected {} {}", name_of(found.dtype),
                           to_string(found.shape), name_of(out.dtype), to_string(out.shape)));
  require_stored(set, path, static_cast<std::size_t>(out.bytes()));
  if (out.count() > 0 &&
      H5Dread(set.get(), hdf5::memory_type(out.dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data) < 0)
    fail_reading(path);
}

Hdf5Reader::Hdf5Reader(const std::string& path) : state_(std::make_unique<State>()) {
  state_->name = path;
  state_->mapping.emplace(path);
  const std::lock_guard lock(hdf5::library_mutex());
  state_->open(state_->mapping->bytes());
}

Hdf5Reader::Hdf5Reader(std::string name, std::string_view image)
    : state_(std::make_unique<State>()) {
  state_->name = std::move(name);
  const std::lock_guard lock(hdf5::library_mutex());
  state_->open(image);
}

Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;
Hdf5Reader& Hdf5Reader::operator=(Hdf5Reader&&) noexcept = default;
Hdf5Reader::~Hdf5Reader() = default;

bool Hdf5Reader::contains(const std::string& path) const {
  const std::lock_guard lock(hdf5::library_mutex());
  return state_->contains(path);
}

Hdf5Entry Hdf5Reader::entry(const std::string& path) const {
  const std::lock_guard lock(hdf5::library_mutex());
  return state_->describe(state_->open_object(path), path);
}

std::vector<Hdf5Entry> Hdf5Reader::list(const std::string& group) const {
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle object = state_->open_object(group);
  if (H5Iget_type(object.get()) != H5I_GROUP) state_->fail(group, "not a group");
  const Handle creation(H5Gget_create_plist(object.get()), H5Pclose);
  unsigned order = 0;
  H5G_info_t info{};
  if (H5Pget_link_creation_order(creation.get(), &order) < 0 ||
      H5Gget_info(object.get(), &info) < 0)
    state_->fail_reading(group);
  const H5_index_t index =
      (order & H5P_CRT_ORDER_INDEXED) != 0 ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;

  std::vector<Hdf5Entry> entries;
  const std::string prefix = group == "/" ? group : group + "/";
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const auto link_name = [&](char* out, std::size_t size) {
      return H5Lget_name_by_idx(object.get(), ".", index, H5_ITER_INC, i, out, size, H5P_DEFAULT);
    };
    const ssize_t length = link_name(nullptr, 0);
    if (length < 0) state_->fail_reading(group);
    std::string member(static_cast<std::size_t>(length) + 1, '\0');
    if (link_name(member.data(), member.size()) < 0) state_->fail_reading(group);
    member.pop_back();
    const std::string path = prefix + member;
    if (state_->contains(path)) {
      entries.push_back(state_->describe(state_->open_object(path), path));
    } else {
      entries.push_back({Kind::other, member, DType::f32, {}});
    }
  }
  return entries;
}

void Hdf5Reader::read(const std::string& path, const Tensor& out) const {
  const std::lock_guard lock(hdf5::library_mutex());
  state_->read(path, out);
}

OwnedTensor Hdf5Reader::read(const std::string& path) const {
  const Hdf5Entry found = entry(path);
  if (found.kind != Kind::tensor) state_->fail(path, "not a tensor of a supported type");
  {
    const std::lock_guard lock(hdf5::library_mutex());
    state_->require_stored(state_->open_dataset(path), path,
                           static_cast<std::size_t>(found.shape.count()) *
                               static_cast<std::size_t>(size_of(found.dtype)));
  }
  OwnedTensor tensor(found.dtype, found.shape);
  read(path, tensor);
  return tensor;
}

std::string Hdf5Reader::text(const std::string& path) const {
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle set = state_->open_dataset(path);
  if (state_->describe(set, path).kind != Kind::text) state_->fail(path, "not a text");
  const Handle type(H5Dget_type(set.get()), H5Tclose);
  state_->require_stored(set, path, H5Tget_size(type.get()));
  const auto strings = read_strings(type.get(), 1, [&](hid_t memory, void* out) {
    return H5Dread(set.get(), memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0;
  });
  if (!strings) state_->fail_reading(path);
  return strings->front();
}

std::map<std::string, Hdf5Attribute> Hdf5Reader::attributes(const std::string& path) const {
  const std::lock_guard lock(hdf5::library_mutex());
  const Handle object = state_->open_object(path);
  std::vector<std::string> names;
  hsize_t position = 0;
  const herr_t walked = H5Aiterate2(
      object.get(), H5_INDEX_NAME, H5_ITER_INC, &position,
      [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->emplace_back(name);
        return 0;
      },
      &names);
  if (walked < 0) state_->fail_reading(path);
  std::map<std::string, Hdf5Attribute> values;
  for (const std::string& name : names) {
    const Handle attribute(H5Aopen(object.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
    auto value = attribute.valid() ? read_attribute(attribute.get()) : std::nullopt;
    if (!value)
      state_->fail(path, fmt::format("attribute {}: neither text, number nor a list of them",
                                     one_line(name)));
    values.emplace(name, std::move(*value));
  }
  return values;
}

}  // namespace quietformer
