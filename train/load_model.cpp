#include "train/load_model.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/check.h"
#include "core/log.h"
#include "train/checkpoint_directory.h"
#include "train/hf_gpt2.h"
#include "train/run_directory.h"

namespace quietformer {
namespace fs = std::filesystem;
namespace {

void build(LoadedModel& loaded, const std::string& device) {
  loaded.placement = place_trained(device, loaded.config.train.dtype);
  loaded.parameters =
      std::make_unique<ParameterList>(loaded.placement.dtype, loaded.placement.device);
  loaded.model = make_model(loaded.config.model, loaded.config.attention, *loaded.parameters);
  loaded.parameters->commit();
}

LoadedModel from_checkpoint(const CheckpointReader& checkpoint, const std::string& device) {
  LoadedModel loaded;
  loaded.path = checkpoint.path();
  loaded.config = parse_run_config(checkpoint.text("config"), checkpoint.path() + ": config");
  loaded.step = checkpoint.integer("step");
  loaded.trained_here = true;
  build(loaded, device);
  for (const Parameter& p : loaded.parameters->all())
    checkpoint.read("parameters/" + p.name, p.master);
  loaded.parameters->update_values(context_for(loaded.placement));
  loaded.model->set_schedule_step(loaded.step);
  return loaded;
}

}  // namespace

LoadedModel load_model(const std::string& path, const std::string& device) {
  if (!fs::exists(path)) throw InputError(fmt::format("{}: no such file or directory", path));
  if (!fs::is_directory(path)) return from_checkpoint(CheckpointReader(path), device);
  if (fs::exists(path + "/config.json")) {
    LoadedModel loaded;
    loaded.path = path;
    read_hf_gpt2_config(path, loaded.config.model, loaded.config.attention);
    build(loaded, device);
    load_hf_gpt2(path, *loaded.parameters);
    return loaded;
  }
  const RunDirectory directory{path};
  if (fs::is_directory(directory.checkpoints())) {
    const auto newest =
        CheckpointDirectory(directory.checkpoints()).newest_valid([](const std::string& reason) {
          log_warning(reason);
        });
    if (!newest)
      throw InputError(fmt::format("{}: holds no valid checkpoint", directory.checkpoints()));
    return from_checkpoint(*newest, device);
  }
  throw InputError(fmt::format(
      "{}: expected a checkpoint file, a run directory with checkpoints/, or a Hugging Face "
      "directory with config.json",
      path));
}

}  // namespace quietformer
