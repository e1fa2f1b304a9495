// A HDF5 file in memory, made by the HDF5 library from a recipe: groups, datasets and attributes of
// any type, space and storage, and links of every kind, under the names that checkpoints use.
#pragma once

#include <string>

#include "tests/fuzz/target.h"

namespace quietformer::fuzz {

/// The bytes of the file, after `user_block` zero bytes. What HDF5 refuses to make is left out.
std::string hdf5_image(Recipe& recipe, std::size_t user_block);

}  // namespace quietformer::fuzz
