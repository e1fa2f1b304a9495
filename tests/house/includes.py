"""Include direction: core <- attention <- layers <- analysis <- train; core <- optim <- train;
core <- data <- train. Siblings do not see each other. Every third party has one owner, and public
headers include none."""
import re

import tree

SEES = {
    "core": {"core"},
    "attention": {"core", "attention"},
    "optim": {"core", "optim"},
    "data": {"core", "data"},
    "layers": {"core", "attention", "layers"},
    "analysis": {"core", "attention", "layers", "analysis"},
    "train": set(tree.FOLDERS),
}

# Third parties by the start of their header's name: who may include them. "*" is every folder.
OWNERS = {
    "yaml-cpp/": {"core"},
    "hdf5": {"core"},
    "H5": {"core"},
    "xxhash": {"core"},
    "spdlog/": {"core"},
    "nccl": {"core"},
    "mpi.h": {"core"},
    "cublas": {"core"},
    "zip.h": {"data"},
    "zlib.h": {"data"},
    "unicode/": {"data"},
    "nlohmann/": {"train", "analysis", "data"},
    "CLI/": {"train"},
    "google/protobuf": {"analysis"},  # by way of what protoc makes of analysis/event.proto
    "Eigen/": {"*"},
    "unsupported/Eigen": {"*"},
    "fmt/": {"*"},
    "gtest/": set(),
    "gmock/": set(),
    "benchmark/": set(),
}
CUDA = re.compile(r"(cuda|cooperative_groups|cub/|cute/|cutlass/|mma\.h|nvtx)")
SYSTEM = re.compile(r"(unistd|fcntl|stdlib|sched|poll|termios|signal|sys/\w+)\.h$")

# Headers for .cpp or .cu files of their own folder only: they may include a third party, and no
# other header may include them. launch.h and the .cuh are the kernels' vocabulary: for .cu and .cuh
# files everywhere.
PRIVATE = {"core/hdf5_handle.h", "core/cuda/launch.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)")')
LINK = re.compile(r"quietformer::(\w+)")


def third_party_problem(header, folder, is_header, is_cuda):
    """Why a file may not include <header>; None when it may."""
    standard = "." not in header and "/" not in header
    if standard:
        return None
    if is_header:
        return "a public header includes a third party"
    if SYSTEM.match(header):
        return None
    if CUDA.match(header):
        return None if is_cuda else "CUDA headers belong in .cu files"
    for prefix, owners in OWNERS.items():
        if header.startswith(prefix):
            return None if folder in owners or "*" in owners else f"belongs to {owners or 'tests'}"
    return "unknown third party: give it an owner in tests/house/includes.py"


def check_source(path, root):
    relative = path.relative_to(root).as_posix()
    folder = tree.folder_of(path, root)
    name = tree.name_of(path)
    is_cuda = name.endswith((".cu", ".cuh")) or relative == "core/cuda/launch.h"
    is_header = name.endswith(".h")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        where = f"{relative}:{number}: {line.strip()}:"
        if match[1]:
            public = is_header and relative not in PRIVATE
            problem = third_party_problem(match[1], folder, public, is_cuda)
            if problem:
                yield f"{where} {problem}"
            continue
        target = match[2]
        if target.split("/")[0] not in SEES[folder]:
            yield f"{where} {folder} may include {', '.join(sorted(SEES[folder]))} only"
        private = target in PRIVATE and (is_header or not (folder == "core" or is_cuda))
        if private or (target.endswith(".cuh") and not is_cuda):
            yield f"{where} for .cpp and .cu files of its folder only"


def check_links(path, root):
    folder = tree.folder_of(path, root)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for library in LINK.findall(line):
            if library in tree.FOLDERS and library not in SEES[folder]:
                yield f"{path.relative_to(root)}:{number}: {folder} links quietformer::{library}"


def main():
    root = tree.arguments().root.resolve()
    sources = [path for path in tree.code(root) if tree.folder_of(path, root) in SEES]
    findings = [finding for path in sources for finding in check_source(path, root)]
    for folder in SEES:
        links = root / folder / "CMakeLists.txt"
        if links.exists():
            findings += check_links(links, root)
    if not sources:
        findings.append(f"no sources under {root}")
    tree.finish(findings, f"include direction: {len(sources)} files")


main()
