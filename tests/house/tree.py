"""What the house tests share: the project's files, and how findings are reported."""
import argparse
import pathlib
import sys

FOLDERS = ["core", "attention", "optim", "data", "layers", "analysis", "train"]
CODE = {".h", ".cpp", ".cu", ".cuh", ".in"}
SKIP = 77  # ctest's SKIP_RETURN_CODE


def arguments(*extra):
    """--root, the tree to look at, and further required options by name."""
    parser = argparse.ArgumentParser()
    for option in ("--root", *extra):
        parser.add_argument(option, type=pathlib.Path, required=True)
    return parser.parse_args()


def files(root):
    """Every file of the source tree but fixtures, fuzz inputs, pictures, build folders and what git keeps."""
    skipped = {".cache", "__pycache__", "corpus", "fixtures", "runs", "shared"}
    pending = [root]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            if path.is_symlink() or path.name == ".git":
                continue
            if path.is_dir():
                if path.name not in skipped and not path.name.startswith("build"):
                    pending.append(path)
            elif path.suffix not in {".pyc", ".gz", ".zip", ".bin", ".png"}:
                yield path


def code(root):
    """Sources and headers, templates of them (.h.in) included."""
    return [path for path in files(root) if path.suffix in CODE]


def folder_of(path, root):
    """The top folder of a file, "" at the root."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def name_of(path):
    """The file's name without a template's .in."""
    return path.name.removesuffix(".in")


def finish(findings, summary):
    """Prints findings and ends the process: 1 when there are any."""
    for finding in findings:
        print(finding)
    print(f"{summary}: {len(findings)} problem(s)" if findings else summary)
    sys.exit(1 if findings else 0)


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIP)
