#include "train/hf/export.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "train/hf/import.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

// What transformers asks for in every file.
const std::map<std::string, std::string> kMetadata{{"format", "pt"}};

// The values of the parameter read last: several tensors of theirs may be made of one.
class ParameterCache {
 public:
  const char* get(const Context& ctx, const SourceParameter& parameter) {
    if (held_ != &parameter) {
      bytes_.resize(static_cast<std::size_t>(parameter.shape.count() * size_of(parameter.dtype)));
      held_ = nullptr;
      parameter.read(ctx, bytes_.data());
      held_ = &parameter;
    }
    return bytes_.data();
  }

 private:
  const SourceParameter* held_ = nullptr;
  std::vector<char> bytes_;
};

// One tensor of theirs and what it is made of.
struct Assembly {
  std::vector<std::pair<TensorCopy, const SourceParameter*>> pieces;

  bool is_whole_parameter() const {
    const auto& [copy, parameter] = pieces[0];
    return pieces.size() == 1 && copy.order.empty() && copy.rows == copy.their_rows &&
           copy.rows == parameter->shape[0] && (copy.rank == 1 || copy.matrix == Matrix::out_in);
  }

  void write(const Context& ctx, ParameterCache& cache, void* out) const {
    if (is_whole_parameter()) return pieces[0].second->read(ctx, out);
    for (const auto& [copy, parameter] : pieces)
      copy_to_theirs(ctx, copy, cache.get(ctx, *parameter), out,
                     static_cast<int>(size_of(parameter->dtype)));
  }

  void check(const std::string& name, const std::string& path) const {
    std::int64_t rows = 0;
    for (const auto& [copy, parameter] : pieces) {
      rows += copy.rows;
      if (parameter->dtype != pieces[0].second->dtype)
        throw InputError(fmt::format("{}: parameter {}: found {}, expected {} as {} has, for {}",
                                     path, parameter->name, name_of(parameter->dtype),
                                     name_of(pieces[0].second->dtype), pieces[0].second->name,
                                     name));
    }
    if (rows != pieces[0].first.their_rows)
      throw InputError(fmt::format("{}: tensor {}: the map fills {} of its {} rows", path, name,
                                   rows, pieces[0].first.their_rows));
  }
};

struct Tensors {
  std::vector<DeferredTensor> theirs, ours;
};

Tensors tensors_of(const Context& ctx, const ModelSource& model, const TensorMap& map) {
  ModelConfig resolved = model.config.model;
  resolve(resolved);
  std::vector<std::string> order;
  std::map<std::string, Assembly> assemblies;
  Tensors tensors;
  for (const SourceParameter& parameter : model.parameters) {
    const auto copies = plan_parameter(map, parameter.name, parameter.shape, resolved);
    for (const TensorCopy& copy : copies) {
      Assembly& assembly = assemblies[copy.theirs];
      if (assembly.pieces.empty()) order.push_back(copy.theirs);
      assembly.pieces.emplace_back(copy, &parameter);
    }
    if (copies.empty())
      tensors.ours.push_back({parameter.name, parameter.dtype, parameter.shape,
                              [ctx, &parameter](void* out) { parameter.read(ctx, out); }});
  }
  const auto cache = std::make_shared<ParameterCache>();
  for (const std::string& name : order) {
    const Assembly& assembly = assemblies[name];
    assembly.check(name, model.path);
    tensors.theirs.push_back(
        {name, assembly.pieces[0].second->dtype, assembly.pieces[0].first.their_shape(),
         [ctx, assembly, cache](void* out) { assembly.write(ctx, *cache, out); }});
  }
  return tensors;
}

std::uint64_t bytes_of(const DeferredTensor& tensor) {
  return static_cast<std::uint64_t>(tensor.shape.count() * size_of(tensor.dtype));
}

// Shards in the tensors' order, each as full as it may be.
std::vector<std::vector<DeferredTensor>> cut(const std::vector<DeferredTensor>& tensors,
                                             std::uint64_t shard_bytes) {
  std::vector<std::vector<DeferredTensor>> shards(1);
  std::uint64_t held = 0;
  for (const DeferredTensor& tensor : tensors) {
    if (!shards.back().empty() && held + bytes_of(tensor) > shard_bytes) {
      shards.emplace_back();
      held = 0;
    }
    held += bytes_of(tensor);
    shards.back().push_back(tensor);
  }
  return shards;
}

void write_weights(const std::string& directory, const std::vector<DeferredTensor>& tensors,
                   std::uint64_t shard_bytes) {
  const auto shards = cut(tensors, shard_bytes);
  if (shards.size() == 1)
    return write_safetensors(directory + "/model.safetensors", tensors, kMetadata);
  nlohmann::ordered_json index;
  std::uint64_t total = 0;
  for (const DeferredTensor& tensor : tensors) total += bytes_of(tensor);
  index["metadata"]["total_size"] = total;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(directory + "/" + name, shards[i], kMetadata);
    for (const DeferredTensor& tensor : shards[i]) index["weight_map"][tensor.name] = name;
  }
  write_file_atomically(directory + "/model.safetensors.index.json", index.dump(2) + "\n");
}

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "float64";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      return "float32";
  }
}

HfConfig config_of(const ModelSource& model, const HfArchitecture& architecture) {
  ModelConfig resolved = model.config.model;
  resolve(resolved);
  const AttentionConfig& attention = model.config.attention;
  HfConfig config;
  if (const auto source = model.files.find("config.json"); source != model.files.end())
    config = HfConfig(source->second, model.path + ": config.json");
  if (config.text("model_type", "") != architecture.name) config = HfConfig();
  config.erase("quietformer");
  config.set("model_type", std::string(architecture.name));
  config.set_list("architectures", std::string(architecture.model_class));
  architecture.write_config(resolved, attention, config);
  if (!model.parameters.empty())
    config.set(config.is_null("dtype") ? "torch_dtype" : "dtype",
               std::string(torch_name(model.parameters[0].dtype)));
  ModelConfig model_there;
  AttentionConfig attention_there;
  read_hf_config(architecture, config, model_there, attention_there);
  if (attention_there == attention) return config;
  ConfigWriter writer;
  AttentionConfig copy = attention;
  copy.visit(writer);
  HfConfig ours;
  ours.set("attention", writer.root());
  config.set("quietformer", ours);
  return config;
}

// A directory under another name until everything is in it.
class NewDirectory {
 public:
  explicit NewDirectory(const std::string& path) : path_(path) {
    while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
    if (fs::exists(path_) && !(fs::is_directory(path_) && fs::is_empty(path_)))
      throw InputError(fmt::format("{}: exists, expected a new or empty directory", path_));
    const fs::path target(path_);
    const fs::path parent = target.has_parent_path() ? target.parent_path() : ".";
    temporary_ =
        (parent / fmt::format(".{}.tmp-{}", target.filename().string(), ::getpid())).string();
    std::error_code error;
    fs::remove_all(temporary_, error);
    if (!fs::create_directory(temporary_, error) || error) fail(error);
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory() {
    std::error_code error;
    if (!temporary_.empty()) fs::remove_all(temporary_, error);
  }
  const std::string& temporary() const { return temporary_; }
  void publish() {
    std::error_code error;
    fs::rename(temporary_, path_, error);
    if (error) fail(error);
    temporary_.clear();
  }

 private:
  [[noreturn]] void fail(const std::error_code& error) const {
    throw RunError(fmt::format("{}: cannot write: {}", path_, error.message()));
  }
  std::string path_, temporary_;
};

}  // namespace

void write_hf_directory(const Context& ctx, const std::string& directory, const ModelSource& model,
                        const HfArchitecture& architecture, const HfExportOptions& options) {
  const HfConfig config = config_of(model, architecture);
  const Tensors tensors = tensors_of(ctx, model, architecture.tensors);
  for (const DeferredTensor& own : tensors.ours)
    if (!is_head_parameter(own.name))
      throw InputError(fmt::format("{}: parameter {}: {} has no tensor for it", model.path,
                                   own.name, architecture.name));
  NewDirectory made(directory);
  write_weights(made.temporary(), tensors.theirs, options.shard_bytes);
  if (!tensors.ours.empty())
    write_safetensors(made.temporary() + "/" + kOurTensors, tensors.ours, kMetadata);
  for (const auto& [name, contents] : model.files)
    if (name != "config.json") write_file_atomically(made.temporary() + "/" + name, contents);
  write_file_atomically(made.temporary() + "/config.json", config.dump());
  made.publish();
}

}  // namespace quietformer
