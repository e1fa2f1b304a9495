"""A run killed at any moment and resumed ends as if nothing had happened, whatever the number of threads."""
import random
import shutil
import signal
import subprocess
import sys
import time

from harness import *

root = folder()
config = write_config(root / "tiny.yaml")

whole = root / "whole"
begin = time.monotonic()
status, out, err = run("train", config, "--run-dir", whole)
duration = time.monotonic() - begin
expect(status == 0, f"the unbroken run: {status} {err}")


def compare(directory, what):
    expect(digests(checkpoints(directory)[-1]) == digests(checkpoints(whole)[-1]), f"{what}: final weights differ")
    expect(digests(directory / "stats.h5") == digests(whole / "stats.h5"), f"{what}: statistics differ")
    expect(log_without_times(directory) == log_without_times(whole), f"{what}: logs differ")
    expect(results_without_times(directory) == results_without_times(whole), f"{what}: results differ")
    expect([p.name for p in checkpoints(directory)] == [p.name for p in checkpoints(whole)], f"{what}: other checkpoints are kept")


def finish(directory, what, *overrides):
    status, out, err = run("train", config, *overrides, "--run-dir", directory, "--resume")
    expect(status == 0, f"{what}: {status} {err}")
    compare(directory, what)
    return out + err


# SIGKILL again and again at random moments, each time resumed with another number of threads. The machine may be slower now
# than during the unbroken run, or faster: rounds go on, with shorter waits, until there were enough kills.
random.seed(1)
kills = 0
for attempt in range(8):
    killed = root / f"killed-{attempt}"
    for process_number in range(60):
        process = start("train", config, f"train.threads={1 + process_number % 3}", "--run-dir", killed, "--resume")
        try:
            process.wait(timeout=random.uniform(0.02, 0.4) * duration / 2**attempt)
            expect(process.returncode == 0, f"resumed run {process_number}: {process.stderr.read()}")
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    finish(killed, f"after SIGKILL, round {attempt}")
    if kills >= 6:
        break
print(f"killed {kills} times; the unbroken run took {duration:.2f} s")
expect(kills >= 6, "the run was too short to be killed")

# SIGTERM and SIGINT save first, then exit with 128 + signal.
for number, threads in ((signal.SIGTERM, 1), (signal.SIGINT, 3)):
    directory = root / f"signal-{int(number)}"
    process = start("train", config, "--run-dir", directory)
    while not list(directory.glob("checkpoints/step_*.h5")):
        time.sleep(0.005)
        expect(process.poll() is None, f"ended early: {process.stderr.read() if process.poll() is not None else ''}")
    process.send_signal(number)
    process.wait(timeout=60)
    expect(process.returncode == 128 + number, f"signal {number}: status {process.returncode}")
    last = log_without_times(directory)[-1]["step"]
    expect(checkpoints(directory)[-1].name == f"step_{last:08d}.h5", f"signal {number}: no checkpoint of the last step {last}")
    expect(not (directory / "results.json").exists(), "an interrupted run is not complete")
    finish(directory, f"after signal {number}", f"train.threads={threads}")

# A damaged newest checkpoint is refused in one line and the one before is used.
for name, damage in (("truncated", lambda b: b[:len(b) // 2]), ("flipped", lambda b: b[:700] + bytes([b[700] ^ 1]) + b[701:]), ("empty", lambda b: b"")):
    directory = root / name
    shutil.copytree(whole, directory)
    (directory / "results.json").unlink()
    newest = checkpoints(directory)[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    said = finish(directory, name)
    refusals = [line for line in said.splitlines() if newest.name in line]
    expect(len(refusals) == 1, f"{name}: expected one line about {newest.name}, found: {said}")

# Without any valid checkpoint the run starts over and says so; a complete run is left alone.
directory = root / "none"
shutil.copytree(whole, directory)
(directory / "results.json").unlink()
for file in checkpoints(directory):
    file.write_bytes(file.read_bytes()[:-1])
said = finish(directory, "no valid checkpoint")
expect("step 0" in said, f"starting over must be said: {said}")
before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
status, out, err = run("train", config, "--run-dir", whole, "--resume")
expect(status == 0 and before == {p: p.stat().st_mtime_ns for p in whole.rglob("*")}, f"a complete run was changed: {err}")

# Killed before config.yaml was written: begins again. Somebody else's directory: refused.
directory = root / "begun"
(directory / "checkpoints").mkdir(parents=True)
(directory / ".config.yaml.tmp-123").write_text("name: ti")
finish(directory, "killed before config.yaml")
directory = root / "foreign"
directory.mkdir()
(directory / "letter.txt").write_text("dear reader")
status, out, err = run("train", config, "--run-dir", directory, "--resume")
expect(status == 2 and "config.yaml" in err and len(err.splitlines()) == 1, f"a foreign directory: {status} {err}")
expect([p.name for p in directory.iterdir()] == ["letter.txt"], "a foreign directory was changed")

# Another config is refused, and so is an existing run directory without --resume.
status, out, err = run("train", config, "model.dim=64", "--run-dir", killed, "--resume")
expect(status == 2 and "model.dim" in err and len(err.splitlines()) == 1, f"another config: {status} {err}")
status, out, err = run("train", config, "--run-dir", killed)
expect(status == 2 and "--resume" in err and len(err.splitlines()) == 1, f"existing directory: {status} {err}")
shutil.rmtree(root)
print("passed")
