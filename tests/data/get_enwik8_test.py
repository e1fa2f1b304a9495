"""scripts/get_enwik8 against a local server that can cut, lie and go away.

Usage: get_enwik8_test.py SCRIPT
"""

import gzip
import hashlib
import http.server
import io
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile

SCRIPT = ""
TEXT = random.Random(1).randbytes(300_000) + b"wikipedia " * 20_000


def zipped(text, method=zipfile.ZIP_DEFLATED):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as z:
        z.writestr("enwik8", text)
    return archive.getvalue()


class Server:
    """Serves `body` at any path; knobs say how badly."""

    def __init__(self, body):
        self.body = body
        self.ranges = True
        self.cuts = []       # bytes after which the next responses break off
        self.stall = None    # bytes after which every response stops, until released
        self.status = 200
        self.requests = []   # the Range header of each, or None
        self.release = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/enwik8.zip"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.requests.append(wanted)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if self.status != 200 or begin >= len(self.body):
            request.send_error(self.status if self.status != 200 else 416)
            return
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(self.body) - begin))
        request.end_headers()
        body = self.body[begin:]
        if self.cuts:
            body = body[:self.cuts.pop(0)]
        elif self.stall is not None:
            body = body[:self.stall]
        request.wfile.write(body)
        request.wfile.flush()
        if self.stall is not None:
            self.release.wait(30)

    def close(self):
        self.release.set()
        self.httpd.shutdown()
        self.httpd.server_close()


class GetEnwik8(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qf-enwik8-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "out dir"
        self.final = self.out / "enwik8.gz"
        self.part = self.out / "enwik8.zip.part"
        self.server = Server(zipped(TEXT))
        self.addCleanup(self.server.close)

    def command(self, *options, text=TEXT):
        return [SCRIPT, "--out", str(self.out), "--url", self.server.url, "--retries", "0",
                "--size", str(len(text)), "--md5", hashlib.md5(text).hexdigest(), *options]

    def run_script(self, *options, env=None, text=TEXT):
        return subprocess.run(self.command(*options, text=text), capture_output=True, text=True,
                              env=env, timeout=60, check=False)

    def expect_success(self, result):
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(gzip.decompress(self.final.read_bytes()), TEXT)
        self.assertEqual(os.listdir(self.out), ["enwik8.gz"])

    def expect_error(self, result, status, *words, left=()):
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertTrue(result.stderr.startswith("get_enwik8: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        found = os.listdir(self.out) if self.out.is_dir() else []
        self.assertEqual(sorted(found), sorted(left))

    def test_downloads(self):
        self.expect_success(self.run_script())
        self.assertEqual(self.server.requests, [None])

    def test_url_from_environment(self):
        command = self.command()
        at = command.index("--url")
        del command[at:at + 2]
        env = dict(os.environ, ENWIK8_URL=self.server.url)
        self.expect_success(subprocess.run(command, capture_output=True, text=True, env=env,
                                           timeout=60, check=False))

    def test_keeps_a_verified_file(self):
        self.expect_success(self.run_script())
        before = self.final.stat()
        self.out.chmod(0o555)
        self.addCleanup(self.out.chmod, 0o755)
        self.expect_success(self.run_script("--url", "http://127.0.0.1:1/"))
        after = self.final.stat()
        self.assertEqual((before.st_mtime_ns, before.st_ino), (after.st_mtime_ns, after.st_ino))
        self.assertEqual(len(self.server.requests), 1)

    def test_replaces_what_is_not_enwik8(self):
        self.out.mkdir()
        for wrong in (b"noise", gzip.compress(TEXT)[:-5], gzip.compress(TEXT[:-1] + b"x"), b""):
            self.final.write_bytes(wrong)
            self.expect_success(self.run_script())

    def test_a_failed_download_keeps_what_was_there(self):
        self.out.mkdir()
        self.final.write_bytes(b"noise")
        self.server.status = 503
        self.expect_error(self.run_script(), 1, "503", left=["enwik8.gz"])
        self.assertEqual(self.final.read_bytes(), b"noise")

    def test_continues_after_cuts(self):
        self.server.cuts = [100_000, 50_000]
        self.expect_success(self.run_script())
        self.assertEqual(self.server.requests, [None, "bytes=100000-", "bytes=150000-"])

    def test_continues_in_a_later_run(self):
        self.server.stall = 100_000
        with subprocess.Popen(self.command(), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            while not (self.part.exists() and self.part.stat().st_size >= 90_000):
                time.sleep(0.05)
            other = self.run_script()
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(timeout=20), 128 + signal.SIGTERM)
            self.assertEqual(process.stderr.read(), b"")
        self.expect_error(other, 1, "another get_enwik8 is at work", left=["enwik8.zip.part"])
        self.server.stall = None
        self.server.requests.clear()
        self.expect_success(self.run_script())
        self.assertEqual(len(self.server.requests), 1)
        self.assertRegex(self.server.requests[0], r"^bytes=(9\d|100)\d\d\d-$")

    def test_uses_a_whole_download_left_behind(self):
        self.out.mkdir()
        self.part.write_bytes(self.server.body)
        self.expect_success(self.run_script("--url", "http://127.0.0.1:1/"))

    def test_starts_over_where_the_server_cannot_continue(self):
        self.server.ranges = False
        self.server.cuts = [100_000]
        self.expect_success(self.run_script("--retries", "1"))
        self.server.ranges = True
        self.final.unlink()
        self.part.write_bytes(b"x" * (len(self.server.body) + 5))  # beyond the end: 416
        self.expect_success(self.run_script("--retries", "1"))

    def test_gives_up_when_nothing_new_comes(self):
        self.server.ranges = False
        self.server.cuts = [100_000] * 20
        self.expect_error(self.run_script(), 1, self.server.url)

    def test_refuses_and_removes_another_text(self):
        other = TEXT[:-1] + b"x"
        for body, words in ((zipped(other), "expected " + hashlib.md5(TEXT).hexdigest()),
                            (zipped(TEXT[:-1]), f"to {len(TEXT) - 1} bytes, expected {len(TEXT)}"),
                            (zipped(TEXT + b"x"), f"more than {len(TEXT)} bytes"),
                            (b"<html>not here</html>", f"to 0 bytes, expected {len(TEXT)}"),
                            (gzip.compress(TEXT), f"to 0 bytes, expected {len(TEXT)}")):
            self.server.body = body
            self.expect_error(self.run_script(), 1, self.server.url, words, "removed")
        damaged = bytearray(zipped(TEXT))
        damaged[1000] ^= 1
        self.server.body = bytes(damaged)
        self.expect_error(self.run_script(), 1, "removed")

    def test_server_trouble_is_one_line(self):
        self.expect_error(self.run_script("--url", "http://127.0.0.1:1/enwik8.zip"), 1,
                          "http://127.0.0.1:1/enwik8.zip")
        self.server.status = 404
        self.expect_error(self.run_script(), 1, "404")

    def test_bad_usage(self):
        for options, word in ((["--nonsense"], "--nonsense"), (["--out"], "--out"),
                              (["--url", ""], "--url"), (["--retries", "x"], "--retries"),
                              (["--size", "-1"], "--size"), (["--md5", "abc"], "--md5")):
            self.expect_error(self.run_script(*options), 2, word)
        self.out.write_bytes(b"a file")
        self.expect_error(self.run_script(), 2, "--out: cannot make the directory")
        result = self.run_script("--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("Usage:", result.stdout)

    def test_a_directory_in_the_way(self):
        self.final.mkdir(parents=True)
        self.expect_error(self.run_script(), 2, "is in the way", left=["enwik8.gz"])

    def test_a_full_disk_is_one_line(self):
        # Far repetitions: bzip2 finds them and gzip does not, so the download fits and the result not.
        text = TEXT[:100_000] * 3
        self.server.body = zipped(text, zipfile.ZIP_BZIP2)
        for limit, file in ((50, self.part), (150, self.out / "enwik8.gz.tmp")):  # in KiB
            shell = f'ulimit -f {limit}; exec "$@"'
            result = subprocess.run(["bash", "-c", shell, "-", *self.command(text=text)], timeout=60,
                                    capture_output=True, text=True, check=False)
            self.expect_error(result, 1, f"cannot write {file}", left=["enwik8.zip.part"])
        self.assertEqual(self.run_script(text=text).returncode, 0)

    def path_without(self, *missing):
        """An environment whose PATH lacks some programs."""
        tools = self.folder / "bin"
        shutil.rmtree(tools, ignore_errors=True)
        tools.mkdir()
        for name in ("bash cat curl cut dirname env flock gzip head md5sum mkdir mv python3 rm sleep stat "
                     "sync tail unzip wc wget").split():
            program = sys.executable if name == "python3" else shutil.which(name)
            if program and name not in missing:
                (tools / name).symlink_to(program)
        return {"PATH": str(tools)}

    def test_missing_tools(self):
        self.expect_error(self.run_script(env=self.path_without("curl", "wget")), 2,
                          "needs curl or wget")
        self.expect_error(self.run_script(env=self.path_without("unzip", "python3")), 2,
                          "needs unzip or python3")
        self.expect_error(self.run_script(env=self.path_without("flock")), 2, "needs flock")

    def test_python_for_unzip(self):
        self.expect_success(self.run_script(env=self.path_without("unzip")))

    @unittest.skipUnless(shutil.which("wget"), "no wget here")
    def test_wget_for_curl(self):
        env = self.path_without("curl")
        self.server.cuts = [100_000]
        self.expect_success(self.run_script(env=env))
        self.assertEqual(self.server.requests, [None, "bytes=100000-"])
        self.final.unlink()
        self.expect_error(self.run_script("--url", "http://127.0.0.1:1/", env=env), 1,
                          "127.0.0.1:1")


if __name__ == "__main__":
    SCRIPT = sys.argv.pop(1)
    absent = [tool for tool in ("curl", "unzip", "flock") if not shutil.which(tool)]
    if absent:
        print("skipped: needs", ", ".join(absent))
        sys.exit(77)  # ctest's sign for it
    unittest.main(verbosity=2)
