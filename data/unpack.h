// Whole files as bytes: raw, gzip or zip.
#pragma once

#include <cstdint>
#include <vector>

#include "data/input_file.h"

namespace quietformer {

/// The contents of a file, unpacked when its first bytes say gzip or zip, whatever it is called.
/// A gzip file may have several members; a zip archive must hold exactly one regular entry.
/// Throws InputError, saying how many bytes came out, when a packed file is truncated, damaged (its
/// checksum is always verified) or followed by anything else; also for an empty result, for a file
/// called .gz or .zip that is neither, and for formats known but not read (bzip2, xz, zstd).
std::vector<std::uint8_t> read_unpacked(InputFile& file);

}  // namespace quietformer
