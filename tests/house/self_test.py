"""The house tests notice what they are there for: each is run on small trees with one violation."""
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
GOOD = {
    "core/a.h": "#pragma once\n#include <vector>\n",
    "core/a.cpp": '#include "core/a.h"\n#include <fmt/format.h>\n#include <Eigen/Core>\n',
    "core/hdf5_handle.h": "#pragma once\n#include <hdf5.h>\n",
    "core/file.cpp": '#include "core/hdf5_handle.h"\n',
    "core/cuda/launch.h": "#pragma once\n#include <cuda_runtime.h>\n",
    "core/cuda/reduce.cuh": '#pragma once\n#include "core/cuda/launch.h"\n#include <cuda_fp16.h>\n',
    "attention/flash.cu": '#include "core/cuda/launch.h"\n#include <cuda_fp16.h>\n',
    "train/t.cpp": '#include "data/d.h"\n#include <CLI/CLI.hpp>\n#include <unistd.h>\n',
    "layers/CMakeLists.txt": "quietformer_library(layers PUBLIC quietformer::attention)\n",
    "tests/a/CMakeLists.txt": "quietformer_test(test_a LABELS x SOURCES a_test.cpp LIBRARIES l)\n"
                              "add_test(NAME test_${kind}_a COMMAND test_${kind})\n",
    "tests/a/a_test.cpp": "TEST(Alpha, One) {}\nTEST_P(Alpha, Two) {}\n",
    "docs/features.md": "| feature | tests |\n|---|---|\n| a | `test_a Alpha.One` |\n"
                        "| b | `test_a_a Alpha.Two`, `Alpha.*`, `test_a` |\n## Later\n| c | d |\n",
    "scripts/run": "#!/usr/bin/env bash\nexit 0\n",
    "notes.md": "TODO(#12) and https://example.com/ho" "me/page and docs/wo" "rk/x\n",
}
BAD = {
    "includes.py": [
        ("core/b.cpp", '#include "attention/attention.h"\n'),
        ("optim/b.cpp", '#include "data/d.h"\n'),
        ("data/b.h", '#pragma once\n#include "optim/o.h"\n'),
        ("layers/b.cpp", '#include "analysis/a.h"\n'),
        ("attention/b.h.in", '#pragma once\n#include "layers/layer.h"\n'),
        ("core/b.h", "#pragma once\n#include <Eigen/Core>\n"),
        ("train/b.h", "#pragma once\n#include <fmt/format.h>\n"),
        ("train/b.cpp", "#include <yaml-cpp/yaml.h>\n"),
        ("train/b.cpp", "  #  include <zip.h>\n"),
        ("layers/b.cpp", "#include <hdf5.h>\n"),
        ("core/b.cpp", "#include <cuda_runtime.h>\n"),
        ("core/b.cpp", "#include <boost/any.hpp>\n"),
        ("core/b.cpp", "#include <gtest/gtest.h>\n"),
        ("train/b.cpp", '#include "core/hdf5_handle.h"\n'),
        ("core/b.h", '#pragma once\n#include "core/cuda/launch.h"\n'),
        ("core/b.cpp", '#include "core/cuda/reduce.cuh"\n'),
        ("core/b.cpp", '#include "../data/d.h"\n'),
        ("data/CMakeLists.txt", "quietformer_library(data PUBLIC quietformer::optim)\n"),
    ],
    "text.py": [
        ("core/b.cpp", "\n" * 601),
        ("core/b.h", "int x;\n"),
        ("core/b.cpp", "// see /ho" "me/me/notes\n"),
        ("core/b.cpp", 'open("/ho' 'me/data");\n'),
        ("core/b.cpp", "// TODO: later\n"),
        ("core/b.cpp", "int x; \n"),
        ("core/b.cpp", "\tint x;\n"),
        ("core/b.cpp", "int x;"),
        ("core/b.cpp", "int x;\r\n"),
        ("docs/b.md", "<<<<<<< HEAD\n"),
    ],
    "format.py": [("core/b.cpp", "int  x ;\n")],
    "features.py": [
        ("docs/features.md", "| a | `test_a Alpha.Three` |\n"),
        ("docs/features.md", "| a | `test_b Alpha.One` |\n"),
        ("docs/features.md", "| a | `test_b` |\n"),
        ("docs/features.md", "| a | `test_b_b Alpha.One` |\n"),
        ("docs/features.md", "| a | `Beta.*` |\n"),
        ("docs/features.md", "| a | none |\n"),
        ("docs/features.md", "nothing\n"),
    ],
    "shell.py": [("scripts/b", "#!/bin/sh\necho $1\n")],
}


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    if name.startswith("scripts/"):
        path.chmod(0o755)


def run(script, root):
    done = subprocess.run([sys.executable, HERE / script, "--root", root], capture_output=True,
                          text=True)
    return done.returncode, done.stdout + done.stderr


def main():
    failures, count = [], 0
    for script, violations in BAD.items():
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in GOOD.items():
                if script == "format.py" and name.endswith("pp"):
                    text = "int x;\n"  # the formatter would sort the includes of these samples
                write(root, name, text)
            status, output = run(script, root)
            if status == 77:
                print(f"{script}: {output.strip()}")
                continue
            if status != 0:
                failures.append(f"{script} refuses a good tree: {output}")
            for name, text in violations:
                count += 1
                before = (root / name).read_bytes() if (root / name).exists() else None
                write(root, name, text)
                status, output = run(script, root)
                if status != 1 or name not in output:
                    failures.append(f"{script} misses {text.strip()[:60]!r} in {name}: {output}")
                (root / name).unlink()
                if before is not None:
                    write(root, name, before.decode())
    for failure in failures:
        print(failure)
    print(f"house tests: {count} violations tried, {len(failures)} failure(s)")
    sys.exit(1 if failures else 0)


main()
