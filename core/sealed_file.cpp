#include "core/sealed_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/check.h"
#include "core/digest.h"
#include "core/log.h"

namespace quietformer {
namespace {

constexpr std::size_t kDigestDigits = 32;
constexpr std::string_view kVersionField = "\nversion ";
constexpr std::string_view kLengthField = "\nlength ";

// Fixed fields: only what `kind` says decides where the digest stands, at the end of the fourth
// line.
std::string header_before_digest(const SealKind& kind, std::size_t length) {
  return fmt::format("{}{}{}{}{:020}\nxxh3-128 ", kind.name, kVersionField, kind.version,
                     kLengthField, length);
}

std::string make_header(const SealKind& kind, std::size_t length, std::string_view digest) {
  std::string header = header_before_digest(kind, length);
  header += digest;
  header +=
      "\nThe digest is of this whole file with the digest's own digits as 0.\n"
      "Data starts at byte 512.\n";
  QF_EXPECTS(header.size() < kSealBytes);
  header.resize(kSealBytes - 1, ' ');
  return header + '\n';
}

std::string digest_of(std::string_view header_without_digest, std::string_view rest) {
  DigestStream stream;
  stream.update(header_without_digest);
  stream.update(rest);
  return stream.hex();
}

// The number between `field` and the end of its line.
std::optional<std::uint64_t> number_after(std::string_view header, std::string_view field) {
  const std::size_t at = header.find(field);
  if (at == std::string_view::npos) return std::nullopt;
  const char* begin = header.data() + at + field.size();
  const char* end = header.data() + header.size();
  std::uint64_t value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || stop == end || *stop != '\n') return std::nullopt;
  return value;
}

}  // namespace

void seal(std::span<char> file, const SealKind& kind) {
  QF_EXPECTS(file.size() >= kSealBytes);
  const std::string blank = make_header(kind, file.size(), std::string(kDigestDigits, '0'));
  const std::string_view rest(file.data() + kSealBytes, file.size() - kSealBytes);
  const std::string header = make_header(kind, file.size(), digest_of(blank, rest));
  std::copy(header.begin(), header.end(), file.begin());
}

SealStream::SealStream(const SealKind& kind, std::size_t length) : kind_(kind), length_(length) {
  QF_EXPECTS(length >= kSealBytes);
  digest_.update(make_header(kind, length, std::string(kDigestDigits, '0')));
}

std::string SealStream::header() const {
  return make_header(kind_, length_, digest_.hex());
}

void verify_seal(std::string_view file, const SealKind& kind, const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    throw InputError(fmt::format("{}: {}", path, why));
  };
  const std::string magic = fmt::format("{}\n", kind.name);
  if (file.size() < magic.size() && magic.starts_with(file))
    refuse(
        fmt::format("{} bytes, expected a {} of at least {}", file.size(), kind.name, kSealBytes));
  if (!file.starts_with(magic)) refuse(fmt::format("not a {}", kind.name));
  if (file.size() < kSealBytes)
    refuse(fmt::format("truncated {}: {} bytes, expected at least {}", kind.name, file.size(),
                       kSealBytes));

  const std::string_view header = file.substr(0, kSealBytes);
  const auto version = number_after(header, kVersionField);
  if (version && *version != static_cast<std::uint64_t>(kind.version))
    refuse(fmt::format("{} of version {}, expected version {}", kind.name, *version, kind.version));
  const auto length = number_after(header, kLengthField);
  if (length && *length != file.size())
    refuse(fmt::format("truncated or damaged {}: {} bytes, expected {}", kind.name, file.size(),
                       *length));

  const std::string blank = make_header(kind, file.size(), std::string(kDigestDigits, '0'));
  const std::string digest = digest_of(blank, file.substr(kSealBytes));
  if (header != make_header(kind, file.size(), digest)) {
    const std::size_t at = header_before_digest(kind, file.size()).size();
    refuse(fmt::format("damaged {}: digest {}, expected {}", kind.name, digest,
                       one_line(header.substr(at, kDigestDigits))));
  }
}

}  // namespace quietformer
