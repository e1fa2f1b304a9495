"""Every test that docs/features.md names exists: `ctest-name Suite.Name`, `ctest-name` or `Suite.Name`
in backticks, where Name may be *."""
import re

import tree

SPAN = re.compile(r"`([^`]+)`")
REFERENCE = re.compile(r"(test|system)_\w+( \w+\.\w+)?|[A-Z]\w+\.(\w+|\*)")
GTEST = re.compile(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", re.M)
PROGRAM = re.compile(r"quietformer_test\((\w+)([^()]*)\)")
COMMAND = re.compile(r"add_test\(\s*NAME\s+([\w${}]+)\s+COMMAND\s+([\w${}:\"]+)")


def tests_in(path):
    return {f"{suite}.{name}" for suite, name in GTEST.findall(path.read_text())}


def registered(root):
    """ctest's names -> the tests of their program, of whatever is registered as literal text; and
    (pattern of names, template of the program's name) of what is registered in loops."""
    programs, loops = {}, []
    for lists in sorted((root / "tests").rglob("CMakeLists.txt")):
        text = lists.read_text()
        for name, body in PROGRAM.findall(text):
            sources = [lists.parent / word for word in body.split() if re.fullmatch(r"[\w/]+\.cpp", word)]
            programs[name] = set().union(*(tests_in(source) for source in sources))
        for name, command in COMMAND.findall(text):
            if "${" in name:
                loops.append((re.compile(re.sub(r"\$\{(\w+)\}", r"(?P<\1>\\w+)", name)),
                              re.sub(r"\$\{(\w+)\}", r"\\g<\1>", command)))
            else:
                programs.setdefault(name, set())
    return programs, loops


def find(name, programs, loops):
    """The tests of a ctest name; None when there is no such name."""
    if name in programs:
        return programs[name]
    for pattern, template in loops:
        match = pattern.fullmatch(name)
        if match:
            program = match.expand(template)
            return programs.get(program) if program.startswith("test_") else set()  # or a script
    return None


def problem(reference, programs, loops):
    """Why there is no such test; None when there is."""
    name, _, test = reference.rpartition(" ")
    if not name and "." not in test:
        return None if find(test, programs, loops) is not None else "no such ctest name"
    tests = find(name, programs, loops) if name else set().union(*programs.values())
    if tests is None:
        return "no such ctest name"
    suite, _, case = test.partition(".")
    known = {other.partition(".")[0] for other in tests} if case == "*" else tests
    return None if (suite if case == "*" else test) in known else "no such test"


def check(root):
    programs, loops = registered(root)
    rows, later = 0, False
    for number, line in enumerate((root / "docs/features.md").read_text().splitlines(), 1):
        where = f"docs/features.md:{number}:"
        later = line == "## Later" if line.startswith("## ") else later
        references = [span for span in SPAN.findall(line) if REFERENCE.fullmatch(span)]
        for reference in references:
            reason = problem(reference, programs, loops)
            if reason:
                yield f"{where} {reference}: {reason}"
        if line.startswith("| ") and not line.startswith("| feature "):
            rows += 1
            if not references and not later:
                yield f"{where} a feature without a test"
    if rows == 0:
        yield "docs/features.md: no features found: this test no longer reads it right"


def main():
    root = tree.arguments().root.resolve()
    tree.finish(list(check(root)), "features and their tests")


main()
