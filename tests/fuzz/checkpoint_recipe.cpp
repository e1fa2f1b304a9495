#include "tests/fuzz/checkpoint_recipe.h"

#include <hdf5.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "core/hdf5_handle.h"

namespace quietformer::fuzz {
namespace {

using hdf5::Handle;

constexpr std::size_t kMostOperations = 12;
constexpr std::size_t kMostElements = 1 << 12;

constexpr const char* kPaths[] = {"/",
                                  "/text",
                                  "/integers",
                                  "/numbers",
                                  "/parameters",
                                  "/step",
                                  "/activations",
                                  "/activations/s",
                                  "/activations/s/mean",
                                  "/weights",
                                  "/weights/w",
                                  "/text/config",
                                  "/parameters/a",
                                  "/optimizer/m/a",
                                  "/parameters/blocks.0.b"};
constexpr const char* kAttributes[] = {"step", "seed",       "description", "dtype",
                                       "loss", "dimensions", "format",      "version"};

template <std::size_t N>
const char* pick(Recipe& recipe, const char* const (&words)[N]) {
  return words[recipe.byte() % N];
}

// One of the known paths, or a member with a name from the recipe in one of them.
std::string path_of(Recipe& recipe) {
  const unsigned choice = recipe.byte();
  std::string path = kPaths[choice % std::size(kPaths)];
  if (choice >= 192) path += "/" + recipe.text(1 + recipe.below(12));
  return path.substr(0, path.find('\0'));
}

Handle copied(hid_t type) {
  return {H5Tcopy(type), H5Tclose};
}

Handle compound_type() {
  Handle type(H5Tcreate(H5T_COMPOUND, 12), H5Tclose);
  H5Tinsert(type.get(), "re", 0, H5T_IEEE_F64LE);
  H5Tinsert(type.get(), "n", 8, H5T_STD_I32LE);
  return type;
}

Handle enum_type() {
  Handle type(H5Tenum_create(H5T_STD_I8LE), H5Tclose);
  const signed char no = 0, yes = 1;
  H5Tenum_insert(type.get(), "FALSE", &no);
  H5Tenum_insert(type.get(), "TRUE", &yes);
  return type;
}

Handle string_of(Recipe& recipe) {
  Handle type = copied(H5T_C_S1);
  const unsigned size = recipe.byte();
  H5Tset_size(type.get(), size < 64    ? H5T_VARIABLE
                          : size < 250 ? size - 63
                                       : std::size_t{1} << (size - 230));
  H5Tset_strpad(type.get(), size % 2 == 0 ? H5T_STR_NULLTERM : H5T_STR_SPACEPAD);
  if (size % 3 == 0) H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

Handle type_of(Recipe& recipe) {
  const hid_t plain[] = {H5T_IEEE_F64LE, H5T_IEEE_F32LE, H5T_STD_I64LE, H5T_STD_I32LE,
                         H5T_STD_U16LE,  H5T_STD_U8LE,   H5T_STD_I64LE, H5T_IEEE_F64LE,
                         H5T_IEEE_F64BE, H5T_IEEE_F32BE, H5T_STD_I64BE, H5T_STD_U64LE,
                         H5T_STD_I16BE,  H5T_STD_I8LE,   H5T_STD_B32LE, H5T_STD_REF_OBJ};
  const unsigned choice = recipe.byte();
  const hsize_t pair[] = {2};
  switch (choice / 16 % 8) {
    case 1:
    case 2:
    case 3:
      return string_of(recipe);
    case 4:
      switch (choice % 8) {
        case 0:
          return compound_type();
        case 1:
          return enum_type();
        case 2:
          return {H5Tarray_create2(H5T_IEEE_F64LE, 1, pair), H5Tclose};
        case 3:
          return {H5Tvlen_create(H5T_STD_I32LE), H5Tclose};
        case 4:
          return {H5Tcreate(H5T_OPAQUE, 5), H5Tclose};
        default: {  // a float of a precision that nobody has
          Handle type = copied(H5T_IEEE_F32LE);
          H5Tset_precision(type.get(), 20 + choice % 8);
          return type;
        }
      }
    default:
      return copied(plain[choice % 16]);
  }
}

// Scalar, nothing, or up to seven dimensions, some of them far beyond any file.
Handle space_of(Recipe& recipe) {
  constexpr hsize_t kSizes[] = {0,
                                1,
                                2,
                                3,
                                4,
                                5,
                                7,
                                64,
                                1 << 10,
                                1 << 20,
                                hsize_t{1} << 31,
                                (hsize_t{1} << 31) + 1,
                                hsize_t{1} << 40,
                                hsize_t{1} << 61};
  const unsigned choice = recipe.byte();
  if (choice % 16 == 15) return {H5Screate(H5S_NULL), H5Sclose};
  const int rank = choice % 16 < 12 ? static_cast<int>(choice % 4) : static_cast<int>(choice % 8);
  if (rank == 0) return {H5Screate(H5S_SCALAR), H5Sclose};
  std::vector<hsize_t> sizes, most;
  for (int i = 0; i < rank; ++i) {
    const unsigned size = recipe.byte();
    sizes.push_back(size < 192 ? size % 7 : kSizes[size % std::size(kSizes)]);
    most.push_back(choice >= 128 ? H5S_UNLIMITED : sizes.back());
  }
  return {H5Screate_simple(rank, sizes.data(), most.data()), H5Sclose};
}

Handle storage_of(Recipe& recipe, const Handle& space) {
  Handle storage(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const unsigned choice = recipe.byte();
  const int rank = std::max(0, H5Sget_simple_extent_ndims(space.get()));
  const std::vector<hsize_t> chunk(static_cast<std::size_t>(rank), 2);
  switch (choice % 8) {
    case 1:
      H5Pset_layout(storage.get(), H5D_COMPACT);
      break;
    case 2:
    case 3:
      if (rank > 0) H5Pset_chunk(storage.get(), rank, chunk.data());
      if (choice % 8 == 3) H5Pset_deflate(storage.get(), 1);
      if (choice >= 128) H5Pset_fletcher32(storage.get());
      break;
    case 4:
      H5Pset_external(storage.get(), "elsewhere", 0, H5F_UNLIMITED);
      break;
    case 5:
      H5Pset_alloc_time(storage.get(), H5D_ALLOC_TIME_INCR);
      break;
    default:
      break;
  }
  if (choice < 128) H5Pset_obj_track_times(storage.get(), false);
  return storage;
}

bool holds_addresses(hid_t type) {
  return H5Tis_variable_str(type) > 0 || H5Tget_class(type) == H5T_VLEN ||
         H5Tget_class(type) == H5T_REFERENCE;
}

// Values of `space` from the recipe: integers count up from a byte of it, so that steps can
// increase; texts are parts of it.
template <class Write>
void write_values(Recipe& recipe, hid_t type, const Handle& space, Write&& write) {
  const hssize_t points = H5Sget_simple_extent_npoints(space.get());
  const std::size_t size = H5Tget_size(type);
  if (points <= 0 || static_cast<std::size_t>(points) > kMostElements || size > kMostElements)
    return;
  const std::size_t count = static_cast<std::size_t>(points);
  if (H5Tis_variable_str(type) > 0) {
    const std::string text = recipe.text(recipe.below(64));
    const std::vector<const char*> pointers(count, text.c_str());
    write(pointers.data());
    return;
  }
  if (holds_addresses(type)) return;
  const unsigned begin = recipe.byte();
  std::vector<char> bytes(size * count);
  if (begin < 128) {
    const std::string text = recipe.text(std::min<std::size_t>(bytes.size(), begin));
    std::copy(text.begin(), text.end(), bytes.begin());
  } else {
    for (std::size_t i = 0; i < count; ++i)
      bytes[i * size] = static_cast<char>(std::min<std::size_t>(begin - 128 + i, 127));
  }
  write(bytes.data());
}

void make_dataset(Recipe& recipe, hid_t file, hid_t links) {
  const std::string path = path_of(recipe);
  const Handle type = type_of(recipe);
  const Handle space = space_of(recipe);
  if (!type.valid() || !space.valid()) return;
  const Handle storage = storage_of(recipe, space);
  const hssize_t points = H5Sget_simple_extent_npoints(space.get());
  // Allocated at once, a large one would be a large file.
  if (points > hssize_t{kMostElements} || H5Tget_size(type.get()) > kMostElements)
    if (H5Pget_layout(storage.get()) == H5D_CONTIGUOUS)
      H5Pset_alloc_time(storage.get(), H5D_ALLOC_TIME_LATE);
  const Handle set(
      H5Dcreate2(file, path.c_str(), type.get(), space.get(), links, storage.get(), H5P_DEFAULT),
      H5Dclose);
  if (!set.valid() || H5Pget_external_count(storage.get()) > 0) return;
  write_values(recipe, type.get(), space, [&](const void* values) {
    H5Dwrite(set.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  });
}

void make_attribute(Recipe& recipe, hid_t file) {
  const std::string path = path_of(recipe);
  std::string name = pick(recipe, kAttributes);
  if (recipe.byte() >= 192) name = recipe.text(1 + recipe.below(12));
  const Handle type = type_of(recipe);
  const Handle space = space_of(recipe);
  const Handle object(H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose);
  if (!type.valid() || !space.valid() || !object.valid()) return;
  const hssize_t points = H5Sget_simple_extent_npoints(space.get());
  if (points > hssize_t{kMostElements} || H5Tget_size(type.get()) > kMostElements) return;
  const Handle made(
      H5Acreate2(object.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  if (!made.valid()) return;
  write_values(recipe, type.get(), space,
               [&](const void* values) { H5Awrite(made.get(), type.get(), values); });
}

void make_link(Recipe& recipe, hid_t file, hid_t links) {
  const unsigned kind = recipe.byte();
  const std::string from = path_of(recipe), to = path_of(recipe);
  switch (kind % 4) {
    case 0:
      H5Lcreate_hard(file, from.c_str(), file, to.c_str(), links, H5P_DEFAULT);
      break;
    case 1:
      H5Lcreate_soft(from.c_str(), file, to.c_str(), links, H5P_DEFAULT);
      break;
    case 2:
      H5Lcreate_external("elsewhere", from.c_str(), file, to.c_str(), links, H5P_DEFAULT);
      break;
    default:
      H5Ldelete(file, from.c_str(), H5P_DEFAULT);
  }
}

void make_group(const std::string& path, hid_t file, hid_t links) {
  const Handle made(H5Gcreate2(file, path.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
}

void run(Recipe& recipe, hid_t file, hid_t links) {
  // What every file of ours has, or nothing.
  const unsigned base = recipe.byte();
  if (base % 8 != 0)
    for (const char* group : {"/text", "/integers", "/numbers"}) make_group(group, file, links);
  for (std::size_t i = 0; i < kMostOperations && !recipe.empty(); ++i) {
    switch (recipe.below(8)) {
      case 0:
        make_group(path_of(recipe), file, links);
        break;
      case 1:
        make_link(recipe, file, links);
        break;
      case 2:
      case 3:
        make_attribute(recipe, file);
        break;
      default:
        make_dataset(recipe, file, links);
    }
  }
}

// The memory of HDF5's core (in-memory) file driver.
struct Image {
  std::string bytes;
};

void* resize_image(void*, std::size_t size, H5FD_file_image_op_t, void* image) {
  std::string& bytes = static_cast<Image*>(image)->bytes;
  bytes.resize(size);
  return bytes.data();
}

void* allocate_image(std::size_t size, H5FD_file_image_op_t operation, void* image) {
  return resize_image(nullptr, size, operation, image);
}

herr_t keep_image(void*, H5FD_file_image_op_t, void*) {
  return 0;
}

}  // namespace

std::string hdf5_image(Recipe& recipe, std::size_t user_block) {
  const std::lock_guard lock(hdf5::library_mutex());
  // HDF5 keeps what it frees, such as a megabyte for every open file: ten times the speed.
  static const herr_t keeps = H5set_free_list_limits(-1, -1, -1, -1, -1, -1);
  if (keeps < 0) throw std::runtime_error("HDF5: " + hdf5::last_error());
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  Image image;
  H5FD_file_image_callbacks_t callbacks{
      allocate_image,
      [](void*, const void*, std::size_t, H5FD_file_image_op_t, void*) -> void* {
        return nullptr;  // only asked for to start from an image
      },
      resize_image,
      keep_image,
      [](void* image) { return image; },
      [](void*) -> herr_t { return 0; },
      &image};
  H5Pset_fapl_core(access.get(), 1 << 12, 0);
  H5Pset_file_image_callbacks(access.get(), &callbacks);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18);
  H5Pset_create_intermediate_group(links.get(), 1);
  Handle file(H5Fcreate(hdf5::image_name().c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
              H5Fclose);
  if (!file.valid()) throw std::runtime_error("HDF5: " + hdf5::last_error());
  run(recipe, file.get(), links.get());
  H5Eclear2(H5E_DEFAULT);
  // H5Fget_file_image would leave the superblock's checksum wrong: the file is closed instead.
  if (H5Fflush(file.get(), H5F_SCOPE_GLOBAL) < 0) throw std::runtime_error(hdf5::last_error());
  const ssize_t length = H5Fget_file_image(file.get(), nullptr, 0);
  if (length < 0 || !file.close()) throw std::runtime_error(hdf5::last_error());
  // Readers look for HDF5 behind a user block of any size: addresses count from where it begins.
  return std::string(user_block, '\0') + image.bytes.substr(0, static_cast<std::size_t>(length));
}

}  // namespace quietformer::fuzz
