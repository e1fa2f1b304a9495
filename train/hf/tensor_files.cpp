#include "train/hf/tensor_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "core/check.h"
#include "core/file.h"
#include "core/log.h"
#include "train/safetensors_header.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kOneFile = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::size_t kMaxIndexBytes = std::size_t{1} << 26;
constexpr std::array<std::string_view, 4> kPickleEnds{".bin", ".pt", ".pth", ".ckpt"};

[[noreturn]] void refuse_pickle(const std::string& path) {
  refuse(path,
         "a PyTorch pickle, which can run code when it is read; expected safetensors. Convert it "
         "with transformers: python3 -c \"from transformers import AutoModelForCausalLM as M; "
         "M.from_pretrained('SRC').save_pretrained('DST')\" (AutoModelForMaskedLM for BERT)");
}

bool is_pickle_name(const std::string& path) {
  return std::any_of(kPickleEnds.begin(), kPickleEnds.end(),
                     [&](std::string_view end) { return path.ends_with(end); });
}

// Zip archives (torch.save since 1.6) and bare pickles, whatever they are called.
bool looks_like_pickle(const std::string& path) {
  const MappedFile file(path);
  const std::string_view head = file.bytes().substr(0, 4);
  return head.starts_with("PK\x03\x04") || head.starts_with("\x80\x02") ||
         head.starts_with("\x80\x04");
}

bool is_plain_file_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.size() <= 255 && name.front() != '.' &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// Reads the two levels that matter; a document tree would lose repeated keys.
class IndexSax : public nlohmann::json_sax<Json> {
 public:
  IndexSax(std::map<std::string, std::string>& files, const std::string& path)
      : files_(files), path_(path) {}

  bool start_object(std::size_t) override {
    if (level_ == 1) in_map_ = key_ == "weight_map";
    if (in_map_ && level_ >= 2) refuse_value("an object");
    ++level_;
    return true;
  }
  bool end_object() override {
    if (--level_ == 1) in_map_ = false;
    return true;
  }
  bool key(string_t& key) override {
    if (level_ == 1 && !keys_.insert(key).second)
      refuse(path_, fmt::format("{}: given twice", one_line(key, 100)));
    key_ = key;
    return true;
  }
  bool string(string_t& value) override {
    if (!at_map()) return true;
    if (!is_plain_file_name(value))
      refuse(path_, fmt::format("tensor {}: found file '{}', expected a name ending in "
                                ".safetensors, in the same directory",
                                one_line(key_, 100), one_line(value, 100)));
    if (!files_.emplace(key_, value).second)
      refuse(path_, fmt::format("tensor {}: given twice", one_line(key_, 100)));
    return true;
  }
  bool start_array(std::size_t) override {
    if (level_ == 1 && key_ == "weight_map")
      refuse(path_, "weight_map: found a list, expected an object");
    return scalar("a list");
  }
  bool end_array() override { return true; }
  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return scalar("a number"); }
  bool number_unsigned(number_unsigned_t) override { return scalar("a number"); }
  bool number_float(number_float_t, const string_t&) override { return scalar("a number"); }
  bool binary(binary_t&) override { return scalar("bytes"); }
  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse(path_, fmt::format("not JSON: {}", one_line(error.what(), 120)));
  }

 private:
  bool at_map() const { return in_map_ && level_ == 2; }
  bool scalar(std::string_view what) {
    if (level_ == 0) refuse(path_, "expected a JSON object");
    if (at_map()) refuse_value(what);
    return true;
  }
  [[noreturn]] void refuse_value(std::string_view what) const {
    refuse(path_, fmt::format("weight_map: tensor {}: found {}, expected a file's name",
                              one_line(key_, 100), what));
  }

  std::map<std::string, std::string>& files_;
  const std::string& path_;
  std::set<std::string> keys_;
  std::string key_;
  int level_ = 0;
  bool in_map_ = false;
};

// A shard may be a link within its directory, or out of a snapshot of the Hugging Face cache into
// the blobs beside it; one that leads elsewhere reads a file that nobody named.
void expect_inside(const std::string& shard, const fs::path& directory) {
  std::error_code error;
  const fs::path home = fs::canonical(directory);
  const fs::path real = fs::canonical(shard, error);
  if (error) refuse(shard, fmt::format("cannot open: {}", error.message()));
  if (real.parent_path() == home) return;
  const fs::path snapshots = home.parent_path();
  if (snapshots.filename() == "snapshots" &&
      real.parent_path() == snapshots.parent_path() / "blobs")
    return;
  refuse(shard, fmt::format("a link to {}, expected a file in {}", real.string(), home.string()));
}

}  // namespace

std::map<std::string, std::string> parse_shard_index(std::string_view json,
                                                     const std::string& path) {
  std::map<std::string, std::string> files;
  IndexSax sax(files, path);
  Json::sax_parse(json, &sax);
  if (files.empty()) refuse(path, "weight_map: missing or empty");
  return files;
}

void refuse_pickles(const std::string& path) {
  if (!fs::is_directory(path)) {
    if (is_pickle_name(path) || looks_like_pickle(path)) refuse_pickle(path);
    return;
  }
  for (const auto& entry : fs::directory_iterator(path))
    if (is_pickle_name(entry.path().filename().string())) refuse_pickle(entry.path().string());
}

TensorFiles::TensorFiles(const std::string& path) : path_(path) {
  if (!fs::is_directory(path)) {
    if (fs::exists(path)) refuse_pickles(path);
    files_.push_back(std::make_unique<SafetensorsReader>(path));
  } else if (fs::exists(path + "/" + kIndex) && !fs::exists(path + "/" + kOneFile)) {
    open_shards(path);
  } else {
    path_ = path + "/" + kOneFile;
    if (!fs::exists(path_)) refuse_pickles(path);
    files_.push_back(std::make_unique<SafetensorsReader>(path_));
  }
  for (const auto& file : files_)
    for (const SafetensorsEntry& entry : file->entries()) {
      if (!index_.emplace(entry.name, tensors_.size()).second)
        refuse(file->path(),
               fmt::format("tensor {}: another shard has one, too", one_line(entry.name, 100)));
      tensors_.push_back({file.get(), &entry});
    }
}

void TensorFiles::open_shards(const std::string& directory) {
  path_ = directory + "/" + kIndex;
  const auto files = parse_shard_index(read_file(path_, kMaxIndexBytes), path_);
  std::map<std::string, const SafetensorsReader*> open;
  for (const auto& [tensor, name] : files)
    if (!open.contains(name)) {
      const std::string shard = directory + "/" + name;
      expect_inside(shard, directory);
      files_.push_back(std::make_unique<SafetensorsReader>(shard));
      open[name] = files_.back().get();
    }
  for (const auto& [tensor, name] : files)
    if (open.at(name)->find(tensor) == nullptr)
      refuse(open.at(name)->path(), fmt::format("tensor {}: missing, expected because {} says so",
                                                one_line(tensor, 100), path_));
  for (const auto& file : files_)
    for (const SafetensorsEntry& entry : file->entries())
      if (!files.contains(entry.name))
        refuse(file->path(), fmt::format("tensor {}: not in {}", one_line(entry.name, 100), path_));
}

const FileTensor* TensorFiles::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::uint64_t TensorFiles::bytes() const {
  std::uint64_t sum = 0;
  for (const FileTensor& tensor : tensors_) sum += tensor.entry->bytes.size();
  return sum;
}

}  // namespace quietformer
