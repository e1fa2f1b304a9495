#include "train/model_source.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/log.h"
#include "layers/language_model.h"
#include "train/checkpoint_directory.h"
#include "train/element_types.h"
#include "train/hf/import.h"
#include "train/hf/tensor_files.h"
#include "train/run_directory.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kParameters = "parameters/";

// Texts of a native checkpoint: the architecture, and files by their name after this.
constexpr const char* kArchitectureText = "huggingface";
constexpr std::string_view kFileText = "huggingface:";

ModelSource from_checkpoint(CheckpointReader reader) {
  const auto checkpoint = std::make_shared<const CheckpointReader>(std::move(reader));
  ModelSource source;
  source.owner = checkpoint;
  source.path = checkpoint->path();
  source.config = parse_run_config(checkpoint->text("config"), checkpoint->path() + ": config");
  source.step = checkpoint->integer("step");
  source.trained_here = !checkpoint->integers().contains(std::string(kConverted));
  for (const auto& [name, text] : checkpoint->texts()) {
    if (name == kArchitectureText) source.architecture = text;
    if (name.starts_with(kFileText))
      if (const std::string file = name.substr(kFileText.size()); is_companion(file))
        source.files[file] = text;
  }
  for (const TensorInfo& info : checkpoint->tensors()) {
    if (!info.name.starts_with(kParameters)) continue;
    const auto read = [&file = *checkpoint, info](const Context&, void* out) {
      file.read(info.name, Tensor(out, info.dtype, info.shape));
    };
    source.parameters.push_back(
        {info.name.substr(kParameters.size()), info.dtype, info.shape, read});
  }
  return source;
}

ModelSource from_run(const std::string& path) {
  auto newest = CheckpointDirectory(path).newest_valid(
      [](const std::string& reason) { log_warning(reason); });
  if (!newest) throw InputError(fmt::format("{}: holds no valid checkpoint", path));
  return from_checkpoint(std::move(*newest));
}

// Into a master of any device and type.
void fill(const Context& ctx, const ModelSource& source, const SourceParameter& from,
          const Tensor& master) {
  const bool direct = from.dtype == master.dtype && master.device.type == DeviceType::cpu;
  if (direct) return from.read(ctx, master.data);
  const OwnedTensor stored(from.dtype, from.shape);
  from.read(ctx, stored.view().data);
  const std::string_view bytes(static_cast<const char*>(stored.view().data),
                               static_cast<std::size_t>(stored.view().bytes()));
  std::optional<OwnedTensor> staged;
  if (master.device.type != DeviceType::cpu) staged.emplace(master.dtype, master.shape);
  const Tensor& out = staged ? staged->view() : master;
  if (!copy_elements(from.dtype, bytes, out))
    throw InputError(fmt::format("{}: parameter {}: found dtype {}, expected {}", source.path,
                                 from.name, name_of(from.dtype), name_of(master.dtype)));
  if (staged) cuda::copy(master, *staged);
}

}  // namespace

const SourceParameter* ModelSource::find(std::string_view name) const {
  for (const SourceParameter& parameter : parameters)
    if (parameter.name == name) return &parameter;
  return nullptr;
}

ModelSource open_model(const std::string& path) {
  if (!fs::exists(path)) throw InputError(fmt::format("{}: no such file or directory", path));
  if (!fs::is_directory(path)) {
    if (!path.ends_with(".h5")) refuse_pickles(path);
    return from_checkpoint(CheckpointReader(path));
  }
  if (fs::exists(path + "/config.json")) return open_hf_model(path);
  const RunDirectory directory{path};
  if (fs::is_directory(directory.checkpoints())) return from_run(directory.checkpoints());
  refuse_pickles(path);
  throw InputError(fmt::format(
      "{}: expected a checkpoint file, a run directory with checkpoints/, or a Hugging Face "
      "directory with config.json",
      path));
}

std::vector<Parameter> parameters_of(const ModelConfig& model, const AttentionConfig& attention) {
  ParameterList list(DType::f32);
  ModelConfig small = model;  // tables of rotations grow with the context, no parameter does
  if (find_position(model.position) == PositionKind::rotary) small.context = 1;
  make_model(small, attention, list);  // which registers them
  return list.all();
}

std::map<std::string, std::string> texts_of(const ModelSource& source) {
  std::map<std::string, std::string> texts;
  if (!source.architecture.empty()) texts[kArchitectureText] = source.architecture;
  for (const auto& [name, contents] : source.files) {
    if (contents.find('\0') == std::string::npos)
      texts[std::string(kFileText) + name] = contents;
    else  // where a text of HDF5 ends
      log_warning(fmt::format("{}: {}: not kept, it has a NUL", source.path, name));
  }
  return texts;
}

bool is_head_parameter(std::string_view name) {
  if (name.find(".attention.gate.") != std::string_view::npos) return true;
  const std::string_view last = name.substr(name.rfind('.') + 1);
  for (const NormalizerInfo& normalizer : normalizers())
    for (const auto& parameter : normalizer.parameters)
      if (parameter.name == last) return true;
  return false;
}

std::vector<std::string> fill_parameters(const Context& ctx, const ModelSource& source,
                                         ParameterList& parameters) {
  std::vector<std::string> started;
  Context host;
  host.threads = ctx.threads;
  for (const Parameter& parameter : parameters.all()) {
    const SourceParameter* from = source.find(parameter.name);
    if (from == nullptr && is_head_parameter(parameter.name)) {
      started.push_back(parameter.name);
      continue;
    }
    if (from == nullptr || !(from->shape == parameter.shape))
      throw InputError(fmt::format(
          "{}: parameter {}: {}, expected shape {}", source.path, parameter.name,
          from == nullptr ? std::string("missing") : "found shape " + to_string(from->shape),
          to_string(parameter.shape)));
    fill(host, source, *from, parameter.master);
  }
  parameters.update_values(ctx);
  return started;
}

}  // namespace quietformer
