"""What another project gets: installs to a temporary prefix; compiles, alone, the installed headers
that no source of the build begins with, and all of them together; builds docs/examples/library
outside the tree and runs it.

Usage: install_test.py BUILD_FOLDER SOURCE_FOLDER CMAKE CXX_COMPILER
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE = map(pathlib.Path, sys.argv[1:3])
CMAKE, COMPILER = sys.argv[3:5]
# The exported build is a release for this machine; consumers may be anything.
CONSUMERS = {"Debug": "-O0 -g", "Release": "-O3 -march=native"}


def run(*command, **keywords):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **keywords)
    return done.returncode, done.stdout + done.stderr


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="quietformer-"))
        cls.prefix = cls.folder / "prefix"
        status, output = run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)
        assert status == 0, output

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def headers(self):
        include = self.prefix / "include"
        return [path.relative_to(include) for path in sorted(include.rglob("*.h"))]

    def compile(self, text):
        return run(COMPILER, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
                   "-I", self.prefix / "include", "-x", "c++", "-", input=text)

    def test_nothing_lies_outside_folders_of_our_name(self):
        self.assertEqual([path.name for path in (self.prefix / "include").iterdir()], ["quietformer"])
        for path in self.prefix.rglob("*"):
            if path.is_file():
                self.assertIn("quietformer", str(path.relative_to(self.prefix)))

    def compiled_first(self, header):
        """Whether the build has compiled it alone: NAME.cpp includes NAME.h before anything else."""
        name = header.relative_to("quietformer")
        source = (SOURCE / name).with_suffix(".cpp")
        first = source.exists() and re.search(r"^#include (.*)", source.read_text(), re.M)
        return bool(first) and first[1] == f'"{name}"'

    def test_headers_compile_alone_and_together(self):
        headers = self.headers()
        self.assertGreater(len(headers), 40)
        texts = {str(header): f"#include <{header}>\n" for header in headers
                 if not self.compiled_first(header)}
        self.assertLess(len(texts), len(headers) / 2)
        texts["all headers"] = "".join(f"#include <{header}>\n" for header in headers)
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for name, (status, output) in zip(texts, pool.map(self.compile, texts.values())):
                self.assertEqual(status, 0, f"{name}: {output}")

    def test_headers_include_each_other_by_full_name_and_no_third_party(self):
        for header in self.headers():
            text = (self.prefix / "include" / header).read_text()
            for name in re.findall(r'^#include "(.*)"', text, re.M):
                self.assertTrue(name.startswith("quietformer/"), f"{header} includes {name}")
                self.assertTrue((self.prefix / "include" / name).exists(),
                                f"{header} includes {name}, which is not installed: add it to "
                                "HEADERS in its folder's CMakeLists.txt")
            for name in re.findall(r"^#include <(.*)>", text, re.M):
                self.assertNotRegex(name, r"[./]", f"{header} includes {name}")

    def test_the_program_and_its_configs_work(self):
        for config in sorted((self.prefix / "share/quietformer/configs").rglob("*.yaml")):
            command = ["sweep", "--dry-run"] if config.parent.name == "sweeps" else ["inspect"]
            status, output = run(self.prefix / "bin/quietformer", *command, config)
            self.assertEqual(status, 0, output)

    def test_the_example_builds_outside_the_tree_and_prints_what_the_guide_says(self):
        guide = (SOURCE / "docs/library.md").read_text()
        expected = re.search(r"prints\n\n```\n(.*?)```", guide, re.S)[1]
        example, build = self.folder / "example", self.folder / "build"
        shutil.copytree(SOURCE / "docs/examples/library", example)
        flags = [f"-DCMAKE_CXX_FLAGS_{kind.upper()}={flags}" for kind, flags in CONSUMERS.items()]
        status, output = run(CMAKE, "-S", example, "-B", build, "-G", "Ninja Multi-Config",
                             f"-DCMAKE_PREFIX_PATH={self.prefix}", *flags,
                             f"-DCMAKE_CXX_COMPILER={COMPILER}",
                             "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
        self.assertEqual(status, 0, output)
        for kind in CONSUMERS:
            status, output = run(CMAKE, "--build", build, "--config", kind)
            self.assertEqual(status, 0, output)
            self.assertEqual(run(build / kind / "example"), (0, expected))


del sys.argv[1:]
unittest.main()
