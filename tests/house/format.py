"""All C++ and CUDA is formatted by clang-format 14: other versions format a little differently."""
import shutil
import subprocess

import tree

VERSION = "14"


def find_formatter():
    """Its path, or (None, why there is none)."""
    found = "no clang-format"
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if path:
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            found = done.stdout.strip()
            if f"version {VERSION}." in found:
                return path, None
    return None, f"needs clang-format {VERSION}, found: {found}"


def main():
    root = tree.arguments().root.resolve()
    formatter, reason = find_formatter()
    if formatter is None:
        tree.skip(reason)
    # Templates hold CMake's @NAME@, which is no C++.
    paths = [path for path in tree.code(root) if path.suffix != ".in"]
    result = subprocess.run([formatter, "--dry-run", "-Werror", *map(str, paths)],
                            capture_output=True, text=True, cwd=root)
    places = {line.split(": error")[0] for line in result.stderr.splitlines() if ": error" in line}
    findings = [place.replace(f"{root}/", "") + ": not as clang-format has it"
                for place in sorted(places)]
    if result.returncode != 0 and not findings:
        findings = result.stderr.splitlines()
    if not paths:
        findings.append(f"no sources under {root}")
    tree.finish(findings, f"formatting: {len(paths)} files")


main()
