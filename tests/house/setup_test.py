"""scripts/setup asks apt only for what is missing, and says in one line why it cannot. Stand-ins for
dpkg-query, apt-get, sudo and env record what they were asked."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SETUP = pathlib.Path(sys.argv[1]) / "scripts/setup"
STANDINS = {
    # dpkg-query -W -f=... PACKAGE
    "dpkg-query": 'if grep -qx "$3" "$WORLD/missing"; then exit 1; fi; echo -n installed',
    # apt-get -qq COMMAND...
    "apt-get": 'echo "$*" >>"$WORLD/asked"; grep -qx "$2" "$WORLD/broken" || exit 0; '
               'echo "E: no network" >&2; exit 100',
    "sudo": 'echo sudo >>"$WORLD/asked"; "$@"',
}


class World:
    """A folder of stand-ins and what they know."""

    def __init__(self, missing=(), broken=(), without=()):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        (self.folder / "missing").write_text("".join(f"{name}\n" for name in missing))
        (self.folder / "broken").write_text("".join(f"{name}\n" for name in broken))
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name, body in STANDINS.items():
            if name not in without:
                (self.bin / name).write_text(f"#!/bin/bash\n{body}\n")
                (self.bin / name).chmod(0o755)
        for tool in ("bash", "env", "mktemp", "tail", "rm", "grep"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def setup(self, *arguments):
        """(status, stdout and stderr, what apt-get and sudo were asked)"""
        environment = {"PATH": str(self.bin), "WORLD": str(self.folder)}
        done = subprocess.run(["bash", SETUP, *arguments], env=environment, capture_output=True,
                              text=True)
        asked = self.folder / "asked"
        questions = asked.read_text() if asked.exists() else ""
        return done.returncode, done.stdout + done.stderr, questions


def expect(condition, message):
    if not condition:
        print("FAILED:", message)
        sys.exit(1)


INSTALL = "-qq install -y --no-install-recommends"


def main():
    status, output, asked = World().setup()
    expect((status, asked, output.count("\n")) == (0, "", 1), f"all installed: {output} {asked}")

    status, output, asked = World(missing=["libzip-dev", "cmake"]).setup()
    expect(status == 0 and asked.replace("sudo\n", "") ==
           f"-qq update\n{INSTALL} cmake libzip-dev\n", f"two missing: {output} {asked}")
    expect(os.getuid() == 0 or "sudo" in asked, f"not root, but no sudo: {asked}")

    status, output, asked = World(missing=["build-essential", "pkgconf"]).setup()
    expect((status, asked) == (0, ""), f"g++ and pkg-config will do: {output} {asked}")

    status, output, asked = World(missing=["curl"]).setup()
    expect((status, asked) == (0, ""), f"get_enwik8 takes wget too: {output} {asked}")
    status, output, asked = World(missing=["curl", "wget"]).setup()
    expect(status == 0 and f"{INSTALL} curl" in asked, f"get_enwik8 needs one: {output} {asked}")

    status, output, asked = World(missing=["shellcheck"]).setup()
    expect((status, asked) == (0, ""), f"building needs no linter: {output} {asked}")
    status, output, asked = World(missing=["shellcheck"]).setup("--check")
    expect(status == 0 and f"{INSTALL} shellcheck" in asked, f"--check: {output} {asked}")

    status, output, asked = World(missing=["cmake"], broken=["update"]).setup()
    expect(status == 1 and "setup: apt-get update failed" in output and "E: no network" in output,
           f"offline: {output}")
    status, output, asked = World(missing=["shellcheck"], broken=["update"]).setup("--check")
    expect(status == 0 and "going on without shellcheck" in output, f"offline, optional: {output}")

    status, output, asked = World(without=["dpkg-query"]).setup()
    expect(status == 1 and output.startswith("setup: needs Debian 12") and output.count("\n") == 1,
           f"no dpkg: {output}")

    if os.getuid() != 0:
        status, output, asked = World(missing=["cmake"], without=["sudo"]).setup()
        expect((status, output) ==
               (1, "setup: missing packages, run as root: apt-get install cmake\n"),
               f"no sudo: {output}")

    status, output, asked = World().setup("--everything")
    expect(status == 2 and output.startswith("usage:"), f"bad usage: {output}")
    print("setup: as it should be")


main()
