// A trained model, whatever holds it: a native checkpoint, a run directory, a Hugging Face
// directory. Nothing is read into memory before somebody asks for it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "train/run_config.h"

namespace quietformer {

/// A parameter under our name, in our layout and in the element type that its file has.
struct SourceParameter {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  /// Writes the values to host memory of any alignment. May use ctx.threads.
  std::function<void(const Context& ctx, void* out)> read;
  /// Rows [first, first + rows) alone, where that is possible: called from front to back.
  std::function<void(const Context& ctx, std::int64_t first, std::int64_t rows, void* out)>
      read_rows{};
};

struct ModelSource {
  std::string path;  // the file or directory that was read
  RunConfig config;  // of a run; for a Hugging Face model its model and attention sections
  std::int64_t step = 0;
  bool trained_here = false;  // config.data says what it was trained on
  /// The architecture of Hugging Face that it came as, perhaps long ago; empty: none.
  std::string architecture;
  /// Small files of that directory (config.json, tokenisers), which go with the model wherever it
  /// goes; native checkpoints hold them as texts.
  std::map<std::string, std::string> files;
  std::vector<SourceParameter> parameters;
  std::vector<std::string> unused;    // tensors of no use here
  std::shared_ptr<const void> owner;  // of what `read` reads

  const SourceParameter* find(std::string_view name) const;  // null when absent
};

/// `path` as in load_model(). InputError in one line for what is none of these, and when a tensor
/// that the model needs is missing or has another shape.
ModelSource open_model(const std::string& path);

/// The parameters of a model of this configuration, without memory: name, shape and init are set.
std::vector<Parameter> parameters_of(const ModelConfig& model, const AttentionConfig& attention);

/// Whether it is a trained parameter of a normaliser ("blocks.3.attention.sink_logit") or of
/// attention's gate ("blocks.3.attention.gate.bias"), which starts from the configuration where a
/// source has none.
bool is_head_parameter(std::string_view name);

/// Fills the masters of committed parameters on any device, converting to their type, and their
/// values. Parameters that the source lacks are left as they are and returned, if they are
/// head parameters; InputError for any other, and for another shape.
std::vector<std::string> fill_parameters(const Context& ctx, const ModelSource& source,
                                         ParameterList& parameters);

/// The texts of a native checkpoint that hold architecture and files, for open_model() to find.
std::map<std::string, std::string> texts_of(const ModelSource& source);

/// An integer of checkpoints that convert wrote: config.data says nothing.
inline constexpr std::string_view kConverted = "converted";

}  // namespace quietformer
