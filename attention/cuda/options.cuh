// Device side of options.h: what a kernel with `general` asks for each sequence, score and weight.
//
// Queries i and keys j count from the start of their sequence. Fragments are those of mma.cuh: with
// g = lane / 4 and t = lane % 4 a lane holds 4 values of a 16x8 block of scores, element e in row
// g + 8 (e / 2) and column 2t + e % 2.
#pragma once

#include "attention/cuda/options.h"
#include "attention/mask.h"
#include "core/math.h"

namespace quietformer::cuda {

/// The rows that one sequence owns, and one tile of its queries or keys. Without packing a sequence
/// is a batch entry.
struct FlashSequence {
  int index;                 // what bias, masks, slopes and dropout are indexed by
  int batch;                 // index into the batch dimension of the tensors: 0 when packed
  int first_query, queries;  // L
  int first_key, keys;       // S
  int tile;

  /// Tile `slot` of FlashOptions::tiles(), of batch entry `batch` (0 when packed). `queries`,
  /// `keys`: all of them.
  template <bool packable>
  static __device__ __forceinline__ FlashSequence of(const FlashOptions& options, bool over_keys,
                                                     int rows, int slot, int batch, int queries,
                                                     int keys) {
    if (!packable || options.cu_queries == nullptr)
      return {batch, batch, 0, queries, 0, keys, slot};
    return of(options, packed_tile(over_keys ? options.cu_keys : options.cu_queries,
                                   options.sequences, rows, slot));
  }

  /// A tile of packed sequences, which may start behind its sequence's end.
  static __device__ __forceinline__ FlashSequence of(const FlashOptions& options,
                                                     const PackedTile& at) {
    const std::int32_t *const q = options.cu_queries + at.sequence, *const k = options.cu_keys +
                                                                               at.sequence;
    return {at.sequence, 0, q[0], q[1] - q[0], k[0], k[1] - k[0], at.tile};
  }
};

/// The scores of one query head of one sequence.
class ScoreOptions {
 public:
  __device__ __forceinline__ ScoreOptions(const FlashOptions& options,
                                          const FlashSequence& sequence, int head)
      : mask_(start(options.mask, sequence, head)),
        padding_(start(options.key_padding, sequence, head)),
        bias_(start(options.bias, sequence, head)),
        offset_(sequence.keys - sequence.queries) {
    if (options.slopes.data != nullptr) slope_ = *start(options.slopes, sequence, head).data;
  }

  /// The score of query i and key j, which must exist, from their scaled product: -inf where the
  /// mask or the padding hides the key. What causality and window hide is the caller's.
  __device__ __forceinline__ float score(float product, int i, int j) const {
    if (bias_.data != nullptr) product += at(bias_, i, j);
    product -= slope_ * fabsf(static_cast<float>(i + offset_ - j));
    const bool hidden = (mask_.data != nullptr && at(mask_, i, j) == 0) ||
                        (padding_.data != nullptr && at(padding_, i, j) == 0);
    return hidden ? -math::kInfinity<float> : product;
  }

 private:
  template <class T>
  static __device__ __forceinline__ Broadcast<T> start(Broadcast<T> tensor,
                                                       const FlashSequence& sequence, int head) {
    if (tensor.data != nullptr) tensor.data += sequence.index * tensor.batch + head * tensor.head;
    return tensor;
  }
  template <class T>
  static __device__ __forceinline__ T at(const Broadcast<T>& tensor, int i, int j) {
    return __ldg(tensor.data + i * tensor.query + j * tensor.key);
  }

  Broadcast<std::uint8_t> mask_, padding_;
  Broadcast<float> bias_;
  float slope_ = 0;
  int offset_;  // position of query 0
};

/// Which weights of one query head of one sequence dropout keeps: the bits of attention/dropout.h.
/// One Philox call decides four neighbouring keys, and the lanes that share them share the calls:
/// one call per lane and fragment. All lanes of a warp call together.
class DropoutOptions {
 public:
  __device__ __forceinline__ DropoutOptions(const FlashOptions& options,
                                            const FlashSequence& sequence, int head)
      : active_(options.dropout),
        threshold_(options.threshold),
        head_(static_cast<std::uint32_t>(head)) {
    if (!active_) return;
    const StreamPlace place = options.stream.now();
    key_ = place.key;
    sample_ = place.first_sample + static_cast<std::uint32_t>(sequence.index);
  }

  __device__ __forceinline__ bool active() const { return active_; }

  /// Bit e: element e of a block is kept whose first row is query i and whose first column is key
  /// j, a multiple of 4.
  __device__ __forceinline__ std::uint32_t kept(int i, int j) const {
    // Lanes t = 2p and 2p + 1 hold keys 4p..4p+3: the first calls for row g, the second for g + 8.
    const int lane = static_cast<int>(threadIdx.x) % 32, odd = lane % 2;
    const std::uint32_t own = four(i + lane / 4 + 8 * odd, j + lane % 4 / 2 * 4);
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, own, 1);
    const std::uint32_t low = odd ? other : own, high = odd ? own : other;
    return (low >> (2 * odd) & 3) | (high >> (2 * odd) & 3) << 2;
  }

  /// The same for a transposed block: its first row is key j, a multiple of 4, its first column
  /// query i.
  __device__ __forceinline__ std::uint32_t kept_transposed(int i, int j) const {
    // Lanes g = 4p + x of a t hold keys 4p + x and 4p + x + 8 of queries 2t and 2t + 1: lane x
    // calls for element x of each.
    const int lane = static_cast<int>(threadIdx.x) % 32, x = lane / 4 % 4;
    std::uint32_t bits = four(i + lane % 4 * 2 + x % 2, j + lane / 16 * 4 + x / 2 * 8) << (4 * x);
    bits |= __shfl_xor_sync(0xFFFFFFFFu, bits, 4);
    bits |= __shfl_xor_sync(0xFFFFFFFFu, bits, 8);
    bits >>= x;
    return (bits & 1) | (bits >> 3 & 2) | (bits >> 6 & 4) | (bits >> 9 & 8);
  }

 private:
  /// Bit k: key j + k is kept for query i; j is a multiple of 4.
  __device__ __forceinline__ std::uint32_t four(int i, int j) const {
    const Philox4 bits = dropout_bits(key_, sample_, head_, static_cast<std::uint32_t>(i),
                                      static_cast<std::uint32_t>(j));
    std::uint32_t result = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) result |= (bits.word[k] >= threshold_ ? 1u : 0u) << k;
    return result;
  }

  bool active_;
  RandomKey key_;
  std::uint32_t threshold_, head_, sample_ = 0;
};

}  // namespace quietformer::cuda
