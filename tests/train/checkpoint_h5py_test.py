"""Native checkpoints and statistics are ordinary HDF5 files: opens one of each in h5py and compares everything in it.

usage: checkpoint_h5py_test.py SAMPLE_CHECKPOINT_PROGRAM
"""
import pathlib
import subprocess
import sys
import tempfile

try:
    import h5py
except ImportError:
    print("skipped: no h5py for", sys.executable)
    sys.exit(77)


def check(file):
    assert file.userblock_size == 512, file.userblock_size
    assert file.attrs["format"] == "quietformer checkpoint"
    assert file.attrs["version"] == 1
    for name in ("text", "integers", "numbers", "parameters", "optimizer", "statistics"):
        assert len(file[name].attrs["description"]) > 10, name
    assert file["text/config"].asstr()[()] == "name: caf\u00e9\n"
    assert file["integers"].attrs["step"] == 1000
    assert file["numbers"].attrs["loss"] == 0.1
    weight = file["parameters/head.weight"]
    assert weight.dtype == "float32" and weight[()].tolist() == [[0, 0.5, 1], [1.5, 2, 2.5]]
    moment = file["optimizer/m/head.weight"]
    assert moment.dtype == "float64" and moment[()].tolist() == [[1.5], [-2.5]]
    counts = file["statistics/counts"]
    assert counts.dtype == "int64" and counts[()].tolist() == [1, -2, 3]
    halves = file["parameters/halves"]
    assert halves.attrs["dtype"] == "bf16"
    assert halves.dtype == "uint16" and halves[()].tolist() == [0x3F80, 0xC000]


def check_statistics(file):
    assert file.attrs["format"] == "quietformer statistics"
    assert file["step"][()].tolist() == [10]
    assert file["final"].attrs["sequences"] == 2
    site = file["final/activations/blocks.0.output"]
    assert site["infinity_norm_by_token"][()].tolist() == [1, 2, 3]
    assert site["infinity_norm_by_channel"][()].tolist() == [4, 5]
    assert list(site["infinity_norm_by_channel"].attrs["dimensions"]) == ["channel"]
    assert file["final/outlier_dimensions/layers"][()].tolist() == [0, 1]
    assert file["final/outlier_dimensions/positions"][()].tolist() == [0, 0.5]


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "step_00001000.h5"
        statistics = pathlib.Path(folder) / "stats.h5"
        subprocess.run([sys.argv[1], str(path), str(statistics)], check=True)
        assert path.read_bytes().startswith(b"quietformer checkpoint\nversion 1\nlength 0000")
        with h5py.File(path, "r") as file:
            check(file)
        with h5py.File(statistics, "r") as file:
            check_statistics(file)


main()
