#include "train/hf/import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxCompanionBytes = std::size_t{1} << 27;

// The files' tensors by the name that the map compares.
class NamedTensors {
 public:
  NamedTensors(const TensorFiles& files, const TensorMap& map) : files_(files), map_(map) {
    for (const FileTensor& tensor : files.tensors())
      if (!index_.emplace(map.plain(tensor.entry->name), &tensor).second)
        throw InputError(fmt::format(
            "{}: tensor {}: given twice, with a prefix ({}) or an old "
            "ending and without",
            tensor.file->path(), one_line(tensor.entry->name, 100), fmt::join(map.prefixes, ", ")));
  }

  const FileTensor* find(std::string_view theirs) const {
    const auto found = index_.find(map_.plain(theirs));
    return found == index_.end() ? nullptr : found->second;
  }

  const FileTensor& use(const TensorCopy& copy, std::string_view parameter, const Shape& shape) {
    const FileTensor* tensor = find(copy.theirs);
    if (tensor == nullptr)
      throw InputError(fmt::format("{}: tensor {}: missing, expected for {} {}", files_.path(),
                                   copy.theirs, parameter, to_string(shape)));
    const Shape found = tensor->file->shape(*tensor->entry);
    if (!(found == copy.their_shape()))
      throw InputError(fmt::format("{}: tensor {}: found shape {}, expected {}",
                                   tensor->file->path(), one_line(tensor->entry->name, 100),
                                   to_string(found), to_string(copy.their_shape())));
    used_.insert(tensor);
    return *tensor;
  }

  // A tied head is stored once, or twice with the same values.
  void use_repeated() {
    for (const RepeatedTensor& repeated : map_.repeated) {
      const FileTensor *tensor = find(repeated.name), *of = find(repeated.of);
      if (tensor == nullptr || of == nullptr || used_.contains(tensor)) continue;
      if (tensor->entry->bytes != of->entry->bytes)
        throw InputError(fmt::format(
            "{}: tensor {}: differs from {}, expected the same because the config ties them",
            tensor->file->path(), repeated.name, repeated.of));
      used_.insert(tensor);
    }
  }

  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const FileTensor& tensor : files_.tensors())
      if (!used_.contains(&tensor) && !map_.ignores(tensor.entry->name))
        names.push_back(tensor.entry->name);
    return names;
  }

 private:
  const TensorFiles& files_;
  const TensorMap& map_;
  std::map<std::string, const FileTensor*, std::less<>> index_;
  std::set<const FileTensor*> used_;
};

DType floating_dtype(const FileTensor& tensor) {
  const DType dtype = tensor.file->dtype(*tensor.entry);
  if (dtype != DType::f64 && dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
    throw InputError(fmt::format("{}: tensor {}: found dtype {}, expected F64, F32, F16 or BF16",
                                 tensor.file->path(), one_line(tensor.entry->name, 100),
                                 tensor.entry->dtype));
  return dtype;
}

SourceParameter source_parameter(const Parameter& parameter, std::vector<TensorCopy> copies,
                                 NamedTensors& tensors) {
  std::vector<std::pair<TensorCopy, FileTensor>> pieces;
  for (TensorCopy& copy : copies) {
    const FileTensor& tensor = tensors.use(copy, parameter.name, parameter.shape);
    if (!pieces.empty() && pieces[0].second.entry->dtype != tensor.entry->dtype)
      throw InputError(fmt::format("{}: tensor {}: found dtype {}, expected {} as {} has",
                                   tensor.file->path(), one_line(tensor.entry->name, 100),
                                   tensor.entry->dtype, pieces[0].second.entry->dtype,
                                   one_line(pieces[0].second.entry->name, 100)));
    pieces.emplace_back(std::move(copy), tensor);
  }
  const DType dtype = floating_dtype(pieces[0].second);
  const int width = static_cast<int>(size_of(dtype));
  const std::int64_t all = parameter.shape[0];
  const auto read_rows = [pieces = std::move(pieces), width, all](
                             const Context& ctx, std::int64_t first, std::int64_t rows, void* out) {
    for (const auto& [copy, tensor] : pieces) {
      copy_rows_to_ours(ctx, copy, tensor.entry->bytes.data(), first, rows, out, width);
      if (first + rows == all) tensor.file->forget(*tensor.entry);
    }
  };
  return {parameter.name, dtype, parameter.shape,
          [read_rows, all](const Context& ctx, void* out) { read_rows(ctx, 0, all, out); },
          read_rows};
}

SourceParameter own_parameter(const Parameter& parameter, const SafetensorsReader& file) {
  const FileTensor tensor{&file, &file.require(parameter.name)};
  if (const Shape found = file.shape(*tensor.entry); !(found == parameter.shape))
    throw InputError(fmt::format("{}: tensor {}: found shape {}, expected {}", file.path(),
                                 parameter.name, to_string(found), to_string(parameter.shape)));
  return {parameter.name, floating_dtype(tensor), parameter.shape,
          [tensor](const Context&, void* out) {
            tensor.entry->bytes.copy(static_cast<char*>(out), tensor.entry->bytes.size());
          }};
}

// What the parameters' functions read from.
struct Owner {
  std::shared_ptr<const TensorFiles> files;
  std::unique_ptr<const SafetensorsReader> own;
};

}  // namespace

void map_parameters(ModelSource& source, std::shared_ptr<const TensorFiles> files,
                    const TensorMap& map) {
  ModelConfig model = source.config.model;
  resolve(model);
  NamedTensors tensors(*files, map);
  const auto owner = std::make_shared<Owner>(Owner{files, nullptr});
  for (const Parameter& parameter : parameters_of(model, source.config.attention)) {
    auto copies = plan_parameter(map, parameter.name, parameter.shape, model);
    if (!copies.empty()) {
      source.parameters.push_back(source_parameter(parameter, std::move(copies), tensors));
      continue;
    }
    if (!is_head_parameter(parameter.name))
      throw InputError(fmt::format("{}: parameter {}: the map has no tensor for it", source.path,
                                   parameter.name));
    if (!owner->own)
      owner->own = std::make_unique<SafetensorsReader>(
          (fs::path(files->path()).parent_path() / kOurTensors).string());
    source.parameters.push_back(own_parameter(parameter, *owner->own));
  }
  tensors.use_repeated();
  source.unused = tensors.unused();
  if (!source.unused.empty())
    log_warning(fmt::format("{}: {} unused tensors: {}", files->path(), source.unused.size(),
                            one_line(fmt::format("{}", fmt::join(source.unused, ", ")), 400)));
  source.owner = owner;
}

bool is_companion(std::string_view name) {
  return std::find(std::begin(kCompanions), std::end(kCompanions), name) != std::end(kCompanions);
}

std::map<std::string, std::string> read_companions(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const char* name : kCompanions)
    if (const std::string path = directory + "/" + name; fs::exists(path))
      files[name] = read_file(path, kMaxCompanionBytes);
  return files;
}

ModelSource open_hf_model(const std::string& directory) {
  const HfConfig config = HfConfig::load(directory + "/config.json");
  const HfArchitecture& architecture = hf_architecture_of(config);
  ModelSource source;
  source.path = directory;
  source.architecture = architecture.name;
  read_hf_config(architecture, config, source.config.model, source.config.attention);
  source.config.data.source = "tokens";
  source.files = read_companions(directory);
  map_parameters(source, std::make_shared<const TensorFiles>(directory), architecture.tensors);
  return source;
}

}  // namespace quietformer
