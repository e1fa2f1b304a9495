"""Rules on the text of every file: lengths, whitespace, and words that have no place here."""
import re

import tree

MOST_LINES = 600
TARGET_LINES = 400
LONG_BY_NATURE = {"LICENSE"}
SELF = "tests/house/text.py"  # holds the words it looks for
SELF_TEST = "tests/house/self_test.py"

FORBIDDEN = [
    (re.compile(r"(?<![\w.$}])/(home|root|work|Users|mnt|scratch)/"), "path of a build machine"),
    (re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))"), "needs an issue number: WORD(#12)"),
    (re.compile(r"^(<<<<<<<|>>>>>>>|=======$)"), "merge conflict"),
]


def check(path, root):
    relative = path.relative_to(root).as_posix()
    raw = path.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        yield f"{relative}: not UTF-8"
        return
    lines = text.splitlines()
    if len(lines) > MOST_LINES and path.name not in LONG_BY_NATURE:
        yield f"{relative}: {len(lines)} lines, at most {MOST_LINES}"
    if text and not text.endswith("\n"):
        yield f"{relative}: no newline at the end"
    if b"\r" in raw:
        yield f"{relative}: carriage return"
    if tree.name_of(path).endswith((".h", ".cuh")) and "#pragma once" not in lines:
        yield f"{relative}: no #pragma once"
    for number, line in enumerate(lines, 1):
        where = f"{relative}:{number}"
        if line != line.rstrip():
            yield f"{where}: trailing whitespace"
        if "\t" in line and path.suffix in tree.CODE | {".py", ".yaml", ".txt", ".cmake"}:
            yield f"{where}: tab"
        if relative not in {SELF, SELF_TEST}:
            for pattern, meaning in FORBIDDEN:
                if pattern.search(line):
                    yield f"{where}: {meaning}: {line.strip()}"


def main():
    root = tree.arguments().root.resolve()
    paths = list(tree.files(root))
    findings = [finding for path in paths for finding in check(path, root)]
    sources = tree.code(root)
    for path in sources:
        count = len(path.read_text(errors="replace").splitlines())
        if TARGET_LINES < count <= MOST_LINES:
            print(f"note: {path.relative_to(root)}: {count} lines, the target is {TARGET_LINES}")
    if not paths:
        findings.append(f"no files under {root}")
    tree.finish(findings, f"text rules: {len(paths)} files")


main()
