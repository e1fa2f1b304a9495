#include "data/token_file.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "data/input_file.h"

namespace quietformer {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr std::int64_t kHeaderBytes = 256 * sizeof(std::int32_t);
constexpr std::int32_t kMagic16 = 20240520;  // llm.c, uint16 tokens, version 1
constexpr std::int32_t kMagic32 = 20240801;  // llm.c, uint32 tokens
constexpr std::int32_t kVersion = 1;

/// A whole file mapped read-only.
class Mapping {
 public:
  explicit Mapping(const InputFile& file) : bytes_(static_cast<std::size_t>(file.size())) {
    data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
    if (data_ == MAP_FAILED) file.fail(fmt::format("cannot be mapped: {}", std::strerror(errno)));
  }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  const char* data() const { return static_cast<const char*>(data_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class MappedTokens final : public TokenSource {
 public:
  MappedTokens(const SourceRequest& request, Mapping mapping, std::int64_t offset,
               std::int64_t size, std::int64_t vocab)
      : TokenSource(request.path, size, vocab),
        mapping_(std::move(mapping)),
        ids_(reinterpret_cast<const std::uint16_t*>(mapping_.data() + offset)),
        what_(request.what) {}

  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    QF_EXPECTS(begin >= 0 && count >= 0 && begin <= size() - count);
    const std::uint16_t* in = ids_ + begin;
    std::int32_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = in[i];
      largest = std::max(largest, out[i]);
    }
    if (largest >= vocab()) refuse(begin, count, out);
  }

 private:
  [[noreturn]] void refuse(std::int64_t begin, std::int64_t count, const std::int32_t* ids) const {
    std::int64_t i = 0;
    while (i + 1 < count && ids[i] < vocab()) ++i;
    throw InputError(fmt::format("{}: {}: token {} is {}, expected ids below the vocabulary of {}",
                                 what_, name(), begin + i, ids[i], vocab()));
  }

  Mapping mapping_;
  const std::uint16_t* ids_;
  std::string what_;
};

/// Where the tokens of a file begin: after llm.c's header, which must agree with the file, or at 0.
std::int64_t tokens_offset(const InputFile& file) {
  std::array<std::int32_t, 3> header = {};
  const std::int64_t got = file.peek(header.data(), sizeof(header));
  if (got < static_cast<std::int64_t>(sizeof(std::int32_t))) return 0;
  const auto [magic, version, count] = header;
  if (magic == kMagic32) file.fail("llm.c file of 32-bit tokens, expected 16-bit tokens");
  if (magic != kMagic16) return 0;
  if (file.size() < kHeaderBytes)
    file.fail(fmt::format("llm.c header cut off after {} of {} bytes", file.size(), kHeaderBytes));
  if (version != kVersion)
    file.fail(fmt::format("llm.c header of version {}, expected {}", version, kVersion));
  const std::int64_t expected = kHeaderBytes + 2 * std::int64_t{count};
  if (count <= 0 || file.size() != expected)
    file.fail(fmt::format("llm.c header promises {} tokens, the file holds {}", count,
                          double(file.size() - kHeaderBytes) / 2));
  return kHeaderBytes;
}

}  // namespace

std::unique_ptr<TokenSource> open_token_file(const SourceRequest& request) {
  const InputFile file(request.path, request.what);
  if (file.size() == 0) file.fail("empty file");
  for (std::string_view end : {".gz", ".zip"})
    if (request.path.ends_with(end))
      file.fail("token files are mapped into memory: unpack it first");
  const std::int64_t offset = tokens_offset(file);
  if (file.size() % 2 != 0)
    file.fail(fmt::format("odd size of {} bytes, expected 16-bit tokens", file.size()));
  constexpr std::int64_t kLimit = 65536;
  const std::int64_t vocab = request.vocab > 0 ? std::min(request.vocab, kLimit) : kLimit;
  return std::make_unique<MappedTokens>(request, Mapping(file), offset, (file.size() - offset) / 2,
                                        vocab);
}

}  // namespace quietformer
