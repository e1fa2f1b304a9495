// Writes what checkpoint_h5py_test.py opens: sample_checkpoint CHECKPOINT STATISTICS
#include <cstdint>
#include <vector>

#include "analysis/history.h"
#include "train/checkpoint.h"

int main(int argc, char** argv) {
  using namespace quietformer;
  if (argc != 3) return 2;
  std::vector<float> weight(6);
  for (int i = 0; i < 6; ++i) weight[static_cast<std::size_t>(i)] = 0.5f * static_cast<float>(i);
  std::vector<double> moment{1.5, -2.5};
  std::vector<std::int64_t> counts{1, -2, 3};
  std::vector<std::uint16_t> halves{0x3F80, 0xC000};
  Checkpoint checkpoint;
  checkpoint.text["config"] = "name: caf\xc3\xa9\n";
  checkpoint.integers["step"] = 1000;
  checkpoint.numbers["loss"] = 0.1;
  checkpoint.tensors = {
      {"parameters/head.weight", Tensor(weight.data(), DType::f32, {2, 3})},
      {"parameters/halves", Tensor(halves.data(), DType::bf16, {2})},
      {"optimizer/m/head.weight", Tensor(moment.data(), DType::f64, {2, 1})},
      {"statistics/counts", Tensor(counts.data(), DType::i64, {3})},
  };
  write_checkpoint(argv[1], checkpoint);

  StatisticsHistory history;
  history.add(10, {});
  FinalResults final;
  final.sequences = 2;
  final.sites = {{"blocks.0.output", {}, {1, 2, 3}, {4, 5}}};
  final.outliers = {1, {0, 1}, {0, 0.5}, {1}};
  history.write(argv[2], &final);
  return 0;
}
