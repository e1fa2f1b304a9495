// Event files for TensorBoard: scalars by step, as protobuf messages in TFRecord framing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "analysis/named_value.h"

namespace quietformer {

/// Whether this build can write event files: they need protobuf.
bool event_files_built();

/// A file of its own for every process of a run: events.out.tfevents.SECONDS.MICROSECONDS.HOST, so
/// that names sort by time as TensorBoard reads them. Each event is one write, so that a killed
/// process leaves at most one cut record, which readers pass over.
class EventFile {
 public:
  /// Makes the directory and the file, whose first events say that what earlier files hold of
  /// `first_step` and later no longer counts (TensorFlow's SessionLog START; TensorBoard drops it).
  /// InputError in a build without protobuf, RunError when it cannot be written.
  EventFile(const std::string& directory, std::int64_t first_step);
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  ~EventFile();

  /// Values are rounded to float. RunError when they cannot be written whole.
  void write(std::int64_t step, std::span<const NamedValue> scalars);

 private:
  void append(const std::string& event);

  std::string path_;
  int file_ = -1;
};

/// CRC-32C (Castagnoli, polynomial 0x1EDC6F41), as in RFC 3720.
std::uint32_t crc32c(std::string_view bytes);

/// One TFRecord: length (u64), its masked CRC, the bytes, their masked CRC; all little-endian.
/// Masked: rotated right by 15, plus 0xa282ead8.
std::string tfrecord(std::string_view bytes);

}  // namespace quietformer
