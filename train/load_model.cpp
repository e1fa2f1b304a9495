#include "train/load_model.h"

#include <fmt/format.h>

#include "core/check.h"

namespace quietformer {

LoadedModel load_model(const std::string& path, const std::string& device) {
  return load_model(open_model(path), device);
}

LoadedModel load_model(const ModelSource& source, const std::string& device) {
  LoadedModel loaded;
  loaded.path = source.path;
  loaded.config = source.config;
  loaded.step = source.step;
  loaded.trained_here = source.trained_here;
  loaded.placement = place_trained(device, loaded.config.train.dtype);
  loaded.parameters =
      std::make_unique<ParameterList>(loaded.placement.dtype, loaded.placement.device);
  loaded.model = make_model(loaded.config.model, loaded.config.attention, *loaded.parameters);
  loaded.parameters->commit();
  const auto missing = fill_parameters(context_for(loaded.placement), source, *loaded.parameters);
  if (!missing.empty())
    throw InputError(fmt::format("{}: parameter {}: missing", loaded.path, missing[0]));
  loaded.model->set_schedule_step(loaded.step);
  return loaded;
}

}  // namespace quietformer
