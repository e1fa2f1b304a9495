// A tensor of Hugging Face's, under our name and in our layout.
#pragma once

#include <string>

#include "tests/support/tensors.h"
#include "train/hf/architecture.h"

namespace quietformer::test {

/// `read(name)` gives their tensor by its full name. Absent when the map does not know the
/// parameter.
template <class Read>
OwnedTensor in_our_layout(const HfArchitecture& architecture, const ModelConfig& model,
                          const std::string& parameter, const Shape& shape, Read&& read) {
  ModelConfig resolved = model;
  resolve(resolved);
  OwnedTensor ours;
  for (const TensorCopy& copy : plan_parameter(architecture.tensors, parameter, shape, resolved)) {
    const OwnedTensor theirs = read(copy.theirs);
    EXPECT_TRUE(theirs.view().shape == copy.their_shape()) << copy.theirs;
    if (!ours.view()) ours = OwnedTensor(theirs.view().dtype, shape);
    copy_to_ours({}, copy, theirs.view().data, ours.view().data, int(size_of(theirs.view().dtype)));
  }
  return ours;
}

}  // namespace quietformer::test
