#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/history.h"
#include "core/check.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "data/source.h"
#include "train/checkpoint.h"
#include "train/commands/command.h"
#include "train/run_config.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::size_t kLongText = 1 << 14;

Json describe_tensor(const std::string& name, const Tensor& tensor) {
  const std::string_view bytes(static_cast<const char*>(tensor.data),
                               static_cast<std::size_t>(tensor.bytes()));
  const auto begin = tensor.shape.size.begin();
  return {{"name", name},
          {"dtype", name_of(tensor.dtype)},
          {"shape", std::vector<std::int64_t>(begin, begin + tensor.shape.rank)},
          {"digest", digest_hex(bytes)}};
}

Json inspect_checkpoint(const std::string& path) {
  const CheckpointReader checkpoint(path);
  Json json{{"kind", "checkpoint"}, {"file", path}};
  for (const auto& [name, value] : checkpoint.integers()) json[name] = value;
  for (const auto& [name, value] : checkpoint.numbers()) json[name] = value;
  json["tensors"] = Json::array();
  for (const TensorInfo& info : checkpoint.tensors()) {
    const OwnedTensor tensor(info.dtype, info.shape);
    checkpoint.read(info.name, tensor);
    json["tensors"].push_back(describe_tensor(info.name, tensor));
  }
  // Tokenisers are megabytes.
  for (const auto& [name, value] : checkpoint.texts())
    json["text"][name] =
        value.size() <= kLongText ? value : fmt::format("({} bytes)", value.size());
  return json;
}

void list_hdf5(const Hdf5Reader& file, const std::string& group, Json& tensors) {
  for (const Hdf5Entry& entry : file.list(group.empty() ? "/" : group)) {
    const std::string path = group + "/" + entry.name;
    if (entry.kind == Hdf5Entry::Kind::group) list_hdf5(file, path, tensors);
    if (entry.kind == Hdf5Entry::Kind::tensor)
      tensors.push_back(describe_tensor(path.substr(1), file.read(path)));
  }
}

Json inspect_hdf5(const std::string& path) {
  Json json{{"kind", "hdf5"}, {"file", path}, {"tensors", Json::array()}};
  list_hdf5(Hdf5Reader(path), "", json["tensors"]);
  return json;
}

Json inspect_statistics(const std::string& path) {
  StatisticsHistory::load(path);  // verifies the file before HDF5 parses it
  Json json = inspect_hdf5(path);
  json["kind"] = "statistics";
  return json;
}

Json inspect_safetensors(const std::string& path) {
  const SafetensorsReader file(path);
  Json json{{"kind", "safetensors"}, {"file", path}, {"tensors", Json::array()}};
  for (const SafetensorsEntry& entry : file.entries())
    json["tensors"].push_back({{"name", entry.name},
                               {"dtype", entry.dtype},
                               {"shape", entry.shape},
                               {"digest", digest_hex(entry.bytes)}});
  return json;
}

Json inspect_config(const std::string& path) {
  return {{"kind", "config"},
          {"file", path},
          {"text", {{"config", to_yaml(load_run_config(path, {}))}}}};
}

Json inspect_data(const std::string& path, SourceKind kind) {
  SourceRequest request;
  request.kind = kind;
  request.path = path;
  request.what = path;
  const auto source = open_source(request);
  constexpr std::int64_t kSample = 400;
  std::vector<std::int32_t> sample(std::min(kSample, source->size()));
  source->copy(0, std::int64_t(sample.size()), sample.data());
  Json json{{"kind", kind == SourceKind::bytes ? "bytes" : "tokens"},
            {"file", path},
            {"tokens", source->size()}};
  if (kind == SourceKind::tokens) {
    json["first"] = sample;
  } else {
    json["text"]["first bytes"] = std::string(sample.begin(), sample.end());
  }
  return json;
}

bool looks_like_safetensors(const std::string& path, std::string_view head) {
  return path.ends_with(".safetensors") ||
         (head.size() > 8 && head[8] == '{' && head[6] == 0 && head[7] == 0);
}

Json inspect(const std::string& path) {
  if (path.starts_with("generator:")) return inspect_data(path, SourceKind::bytes);
  if (!fs::exists(path)) throw InputError(fmt::format("{}: no such file", path));
  if (fs::is_directory(path))
    throw InputError(
        fmt::format("{}: is a directory, expected a checkpoint, config or data file", path));
  const MappedFile file(path);
  const std::string_view head = file.bytes().substr(0, 64);
  if (head.starts_with("quietformer checkpoint")) return inspect_checkpoint(path);
  if (head.starts_with("quietformer statistics")) return inspect_statistics(path);
  if (head.starts_with("\x89HDF")) return inspect_hdf5(path);
  if (looks_like_safetensors(path, head)) return inspect_safetensors(path);
  if (path.ends_with(".h5")) return inspect_checkpoint(path);  // says what is wrong with it
  if (path.ends_with(".yaml") || path.ends_with(".yml")) return inspect_config(path);
  return inspect_data(path, path.ends_with(".bin") ? SourceKind::tokens : SourceKind::bytes);
}

std::string shape_text(const Json& shape) {
  std::string text;
  for (const auto& size : shape)
    text += fmt::format("{}{}", text.empty() ? "" : " x ", size.get<std::int64_t>());
  return text.empty() ? "scalar" : text;
}

void print(const Json& json) {
  for (const auto& [key, value] : json.items())
    if (key != "tensors" && key != "text")
      fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  if (json.contains("tensors")) {
    fmt::print("tensors: {}\n", json["tensors"].size());
    for (const auto& tensor : json["tensors"])
      fmt::print("  {:<4} {:>16}  {}\n", tensor["dtype"].get<std::string>(),
                 shape_text(tensor["shape"]), tensor["name"].get<std::string>());
  }
  if (json.contains("text"))
    for (const auto& [key, value] : json["text"].items())
      fmt::print("{}:\n{}\n", key, value.get<std::string>());
}

}  // namespace

void add_inspect(CLI::App& app, CommandBody& body) {
  struct Arguments {
    std::string file;
    bool json = false;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("inspect", "What is in a checkpoint, config, statistics or data file");
  command->add_option("FILE", args->file, "A file, or generator:wikipedia")->required();
  command->add_flag("--json", args->json, "One JSON object, with a digest of every tensor");
  command->footer("Example: quietformer inspect runs/demo-softmax1/checkpoints/step_00001000.h5");
  command->callback([args, &body] {
    body = [args] {
      const Json json = inspect(args->file);
      if (args->json)
        fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
      else
        print(json);
      return 0;
    };
  });
}

}  // namespace quietformer
