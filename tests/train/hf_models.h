// The fixtures' models, for tests of what becomes of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/fixtures.h"
#include "tests/support/tensors.h"
#include "train/hf/architecture.h"
#include "train/load_model.h"

namespace quietformer::test {

inline std::vector<std::string> model_folders() {
  std::vector<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(fixtures_folder()))
    if (std::filesystem::exists(entry.path() / "config.json") &&
        std::filesystem::exists(entry.path() / "expected.json"))
      folders.push_back(entry.path().string());
  EXPECT_GE(folders.size(), 3u) << "no fixtures in " << fixtures_folder();
  std::sort(folders.begin(), folders.end());
  return folders;
}

inline std::string fixture(const std::string& name) {
  return fixtures_folder() + "/" + name;
}

// An encoder's checkpoint names its mask.
inline ModelSource open(const std::string& path) {
  ModelSource model = open_model(path);
  if (is_encoder(model.config.model)) model.config.data.mlm.mask_token = 4;
  return model;
}

inline const HfArchitecture& architecture_of(const ModelSource& model) {
  return *find_hf_architecture(model.architecture);
}

inline std::vector<double> logits_of(const ModelSource& source) {
  const LoadedModel loaded = load_model(source);
  const std::int64_t length = std::min<std::int64_t>(source.config.model.context, 24);
  const Context ctx;
  Arena arena("test");
  loaded.model->declare(ctx, arena, {2, length}, Purpose::inference);
  arena.commit();
  const OwnedTensor tokens(DType::i32, {2, length});
  for (std::int64_t i = 0; i < 2 * length; ++i)
    tokens.as<std::int32_t>()[i] = std::int32_t(5 + i * 7 % (source.config.model.vocab - 5));
  const Tensor logits = loaded.model->forward(ctx, {tokens});
  std::vector<double> values;
  for (std::int64_t i = 0; i < logits.count(); ++i) values.push_back(get(logits, i));
  return values;
}

}  // namespace quietformer::test
