"""shellcheck finds nothing in the shell scripts."""
import shutil
import subprocess

import tree


def is_shell(path):
    with path.open("rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and b"sh" in first and b"python" not in first


def main():
    root = tree.arguments().root.resolve()
    if shutil.which("shellcheck") is None:
        tree.skip("no shellcheck")
    scripts = [path for path in tree.files(root) if is_shell(path)]
    result = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True)
    findings = result.stdout.splitlines() if result.returncode else []
    findings += [f"{path.relative_to(root)}: not executable"
                 for path in scripts if not path.stat().st_mode & 0o100]
    if not scripts:
        findings.append(f"no shell scripts under {root}")
    tree.finish(findings, f"shell scripts: {len(scripts)} files")


main()
