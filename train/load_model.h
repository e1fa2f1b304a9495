// A trained model, from whatever holds one: a checkpoint, a run directory, or a Hugging Face
// directory.
#pragma once

#include <memory>
#include <string>

#include "core/parameter.h"
#include "layers/language_model.h"
#include "train/model_source.h"
#include "train/placement.h"
#include "train/run_config.h"

namespace quietformer {

struct LoadedModel {
  RunConfig config;  // of the run; for a Hugging Face model its model and attention sections
  std::string path;  // the file that was read
  std::int64_t step = 0;
  bool trained_here = false;  // a checkpoint of ours: config.data says what it was trained on
  Placement placement;        // of the parameters
  std::unique_ptr<ParameterList> parameters;
  std::unique_ptr<LanguageModel> model;  // not declared yet: the caller knows the batch
};

/// `path`: a checkpoint file, a run directory (its newest valid checkpoint) or a Hugging Face
/// directory of an architecture we know (train/hf/architecture.h). InputError in one line
/// otherwise. `device` as in place_trained(): by default where parameters are read, the CPU.
LoadedModel load_model(const std::string& path, const std::string& device = "cpu");
LoadedModel load_model(const ModelSource& source, const std::string& device = "cpu");

}  // namespace quietformer
