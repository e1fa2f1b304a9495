#include "train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/context.h"
#include "core/cuda/memory.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/sealed_file.h"
#include "train/host_view.h"

namespace quietformer {
namespace {

constexpr SealKind kKind{"quietformer checkpoint", 1};
constexpr int kMaxDepth = 16;  // of groups in groups
constexpr const char* kText = "/text";
constexpr const char* kIntegers = "/integers";
constexpr const char* kNumbers = "/numbers";

// What h5py shows as the groups' attribute "description".
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kDescriptions{{
    {kText, "Texts, one dataset each: config is the resolved configuration (YAML)"},
    {kIntegers, "Integer scalars, one attribute each: step is the number of finished steps"},
    {kNumbers, "Real scalars, one attribute each"},
    {"/parameters", "Trainable tensors by path; linear weights are (out, in)"},
    {"/optimizer", "State of the optimizer: one group per quantity, tensors named like parameters"},
    {"/statistics", "Running statistics of activations"},
}};

bool is_reserved(std::string_view group) {
  return group == kText || group == kIntegers || group == kNumbers || group == "/";
}

// "group/name", each component usable as the name of an HDF5 link.
bool valid_name(std::string_view name) {
  const std::string group = fmt::format("/{}", name.substr(0, name.find('/')));
  if (name.find('/') == std::string_view::npos || is_reserved(group)) return false;
  if (name.find('\0') != std::string_view::npos) return false;
  while (true) {
    const std::size_t end = name.find('/');
    const std::string_view component = name.substr(0, end);
    if (component.empty() || component == "." || component == "..") return false;
    if (end == std::string_view::npos) return true;
    name.remove_prefix(end + 1);
  }
}

template <class T>
const T& require(const std::map<std::string, T>& map, const std::string& name,
                 const std::string& path, std::string_view what) {
  const auto found = map.find(name);
  if (found == map.end()) throw InputError(fmt::format("{}: {} {}: missing", path, what, name));
  return found->second;
}

template <class T>
std::map<std::string, T> scalars(const Hdf5Reader& file, const char* group,
                                 const std::string& path) {
  std::map<std::string, T> values;
  for (const auto& [name, value] : file.attributes(group)) {
    if (name == "description") continue;
    const T* scalar = std::get_if<T>(&value);
    if (scalar == nullptr)
      throw InputError(fmt::format("{}: {}: attribute {} is not a scalar of its kind", path, group,
                                   one_line(name)));
    values.emplace(name, *scalar);
  }
  return values;
}

// The seal first, then HDF5.
Hdf5Reader open_verified(const MappedFile& file) {
  verify_seal(file.bytes(), kKind, file.path());
  return Hdf5Reader(file.path(), file.bytes());
}

}  // namespace

namespace {

std::size_t bytes_of(const DeferredTensor& tensor) {
  return static_cast<std::size_t>(tensor.shape.count() * size_of(tensor.dtype));
}

// Where a deferred tensor lies in the file.
struct Place {
  std::size_t begin;
  const DeferredTensor* tensor;
};

// The image with the tensors in their places, from front to back; the seal last, over the front.
void write_with_tensors(FileWriter& file, const Hdf5Image& image,
                        const std::vector<Place>& places) {
  const std::string_view bytes = image.view();
  SealStream stream(kKind, image.size());
  const auto write = [&](std::string_view part) {
    stream.update(part);
    file.write(part);
  };
  file.write(bytes.substr(0, kSealBytes));
  std::size_t at = kSealBytes;
  std::vector<char> memory;
  for (const Place& place : places) {
    QF_EXPECTS(place.begin >= at);
    write(bytes.substr(at, place.begin - at));
    make_tensor(*place.tensor, memory, write);
    at = place.begin + bytes_of(*place.tensor);
  }
  write(bytes.substr(at));
  file.rewrite(0, stream.header());
}

}  // namespace

void make_tensor(const DeferredTensor& tensor, std::vector<char>& memory,
                 const std::function<void(std::string_view bytes)>& sink) {
  constexpr std::size_t kPiece = std::size_t{1} << 21;  // stays in a core's cache
  const std::size_t bytes = bytes_of(tensor);
  if (bytes == 0) return;
  if (!tensor.write_rows) {
    memory.resize(std::max(memory.size(), bytes));
    tensor.write(memory.data());
    return sink({memory.data(), bytes});
  }
  const std::int64_t rows = tensor.shape[0];
  const std::size_t row = bytes / static_cast<std::size_t>(rows);
  const std::int64_t piece = std::clamp<std::int64_t>(std::int64_t(kPiece / row), 1, rows);
  const std::size_t half = static_cast<std::size_t>(piece) * row;
  memory.resize(std::max(memory.size(), 2 * half));
  const auto place = [&](std::int64_t number) { return memory.data() + (number % 2) * half; };
  const auto length = [&](std::int64_t number) { return std::min(piece, rows - number * piece); };
  const std::int64_t pieces = (rows + piece - 1) / piece;
  Context ctx;
  ctx.threads = std::min(2, available_threads());
  // One thread hands out a piece while another makes the next.
  for (std::int64_t number = 0; number <= pieces; ++number)
    parallel_chunks(ctx, 2, [&](std::int64_t part, int) {
      if (part == 0 && number > 0)
        sink({place(number - 1), static_cast<std::size_t>(length(number - 1)) * row});
      if (part == 1 && number < pieces)
        tensor.write_rows(number * piece, length(number), place(number));
    });
}

void write_checkpoint(const std::string& path, const Checkpoint& checkpoint) {
  std::size_t reserved = 0;
  for (const DeferredTensor& tensor : checkpoint.deferred) reserved += bytes_of(tensor);
  Hdf5Writer file(path, kSealBytes, reserved);
  file.attribute("/", "format", std::string(kKind.name));
  file.attribute("/", "version", std::int64_t{kKind.version});
  file.attribute("/", "description",
                 std::string("State of a training run. Shapes are row-major; see each group's "
                             "description. The first 512 bytes hold length and digest."));
  for (const char* group : {kText, kIntegers, kNumbers}) file.group(group);
  for (const auto& [name, value] : checkpoint.text)
    file.text(fmt::format("{}/{}", kText, name), value);
  for (const auto& [name, value] : checkpoint.integers) file.attribute(kIntegers, name, value);
  for (const auto& [name, value] : checkpoint.numbers) file.attribute(kNumbers, name, value);
  std::set<std::string, std::less<>> groups{kText, kIntegers, kNumbers};
  const auto add = [&](const std::string& name) {
    QF_EXPECTS(valid_name(name));
    groups.insert(fmt::format("/{}", name.substr(0, name.find('/'))));
    return fmt::format("/{}", name);
  };
  for (const NamedTensor& named : checkpoint.tensors)
    file.tensor(add(named.name), HostView(named.tensor).view());
  std::vector<Place> places;
  for (const DeferredTensor& tensor : checkpoint.deferred) {
    const std::size_t begin = file.reserve(add(tensor.name), tensor.dtype, tensor.shape);
    if (tensor.shape.count() > 0) places.push_back({begin, &tensor});
  }
  std::sort(places.begin(), places.end(),
            [](const Place& a, const Place& b) { return a.begin < b.begin; });
  for (const auto& [group, description] : kDescriptions)
    if (groups.contains(group))
      file.attribute(std::string(group), "description", std::string(description));
  Hdf5Image image = file.finish();
  write_file_atomically(path,
                        [&](FileWriter& writer) { write_with_tensors(writer, image, places); });
}

CheckpointReader::CheckpointReader(const std::string& path)
    : file_(path), hdf5_(open_verified(file_)) {
  for (const Hdf5Entry& entry : hdf5_.list(kText))
    contents_.text.emplace(entry.name, hdf5_.text(fmt::format("{}/{}", kText, entry.name)));
  contents_.integers = scalars<std::int64_t>(hdf5_, kIntegers, path);
  contents_.numbers = scalars<double>(hdf5_, kNumbers, path);
  list_tensors("/", 0);
}

void CheckpointReader::list_tensors(const std::string& group, int depth) {
  if (depth > kMaxDepth)
    throw InputError(
        fmt::format("{}: {}: groups more than {} deep", path(), one_line(group, 100), kMaxDepth));
  for (const Hdf5Entry& entry : hdf5_.list(group)) {
    const std::string member = group == "/" ? "/" + entry.name : group + "/" + entry.name;
    if (group == "/" && is_reserved(member)) continue;
    if (entry.kind == Hdf5Entry::Kind::group) {
      list_tensors(member, depth + 1);
    } else if (entry.kind == Hdf5Entry::Kind::tensor) {
      tensors_.push_back({member.substr(1), entry.dtype, entry.shape});
    } else {
      throw InputError(fmt::format("{}: {}: neither a group nor a tensor of a supported type",
                                   path(), one_line(member)));
    }
  }
}

const std::string& CheckpointReader::text(const std::string& name) const {
  return require(contents_.text, name, path(), "text");
}

std::int64_t CheckpointReader::integer(const std::string& name) const {
  return require(contents_.integers, name, path(), "integer");
}

double CheckpointReader::number(const std::string& name) const {
  return require(contents_.numbers, name, path(), "number");
}

const TensorInfo* CheckpointReader::find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const TensorInfo& info) { return info.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

void CheckpointReader::read(const std::string& name, const Tensor& out) const {
  const TensorInfo* found = find(name);
  if (found == nullptr)
    throw InputError(fmt::format("{}: tensor {}: missing, expected {} {}", path(), name,
                                 name_of(out.dtype), to_string(out.shape)));
  if (found->dtype != out.dtype || !(found->shape == out.shape))
    throw InputError(fmt::format("{}: tensor {}: found {} {}, expected {} {}", path(), name,
                                 name_of(found->dtype), to_string(found->shape), name_of(out.dtype),
                                 to_string(out.shape)));
  const std::string path = fmt::format("/{}", name);
  if (out.device.type == DeviceType::cpu) return hdf5_.read(path, out);
  const OwnedTensor host(out.dtype, out.shape);
  hdf5_.read(path, host);
  cuda::copy(out, host);
}

}  // namespace quietformer
