// A header that tells a whole file from a damaged one before anything parses it.
//
// The first 512 bytes of a sealed file are text: what the file is, its version, its length and the
// XXH3-128 digest of the entire file with the digest's own digits read as '0'. Truncation anywhere
// and any changed byte are noticed. In an HDF5 file the header is the user block, which HDF5 skips.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "core/digest.h"

namespace quietformer {

inline constexpr std::size_t kSealBytes = 512;

/// What a file says it is, e.g. {"quietformer checkpoint", 1}.
struct SealKind {
  std::string_view name;
  int version = 1;
};

/// Writes the header over the first kSealBytes of `file`; everything after them must be final.
void seal(std::span<char> file, const SealKind& kind);

/// The header of a file that is written piece by piece and never lies in memory whole.
class SealStream {
 public:
  /// `length` is that of the whole file.
  SealStream(const SealKind& kind, std::size_t length);
  /// Bytes after the first kSealBytes, in order.
  void update(std::string_view bytes) { digest_.update(bytes); }
  /// The first kSealBytes, after everything else went through update().
  std::string header() const;

 private:
  SealKind kind_;
  std::size_t length_;
  DigestStream digest_;
};

/// Throws InputError "PATH: ..." unless `file` is exactly what seal() left: of this kind, of this
/// version, complete and unchanged.
void verify_seal(std::string_view file, const SealKind& kind, const std::string& path);

}  // namespace quietformer
