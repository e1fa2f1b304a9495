"""TensorBoard reads what train.tensorboard writes: every scalar of the log and of the statistics, once, also after kills.
Skipped where Python has no tensorboard package, or the build no protobuf."""
import json
import math
import shutil
import signal
import time

from harness import *


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


root = folder()
config = write_config(root / "tiny.yaml")
directory = root / "run"
arguments = ["train", config, "train.tensorboard=true", "train.checkpoint_every=20", "--run-dir", directory, "--resume"]

# Killed twice in the middle between checkpoints, so that steps are taken again.
process = start(*arguments)
for step in (28, 69):
    while not (directory / "log.jsonl").exists() or f'"step":{step},' not in (directory / "log.jsonl").read_text():
        time.sleep(0.002)
        if process.poll() is not None:
            err = process.stderr.read()
            if "need protobuf" in err:
                expect(process.returncode == 2 and len(err.splitlines()) == 1 and not directory.exists(), f"without protobuf: {err}")
                skip("built without protobuf")
            expect(False, f"ended early: {process.returncode} {err}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start(*arguments)
status = process.wait()
expect(status == 0, f"the resumed run: {status} {process.stderr.read()}")
files = sorted((directory / "tensorboard").iterdir())
expect(len(files) == 3 and all(f.name.startswith("events.out.tfevents.") for f in files), f"one file to a process: {files}")

# The key decides nothing about what is computed: the run goes with one that has none of it.
(directory / "results.json").unlink()
status, out, err = run("train", config, "train.checkpoint_every=20", "--run-dir", directory, "--resume")
expect(status == 0 and len(list((directory / "tensorboard").iterdir())) == 3, f"without the key: {status} {err}")

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    skip(f"{error} (pip install tensorboard)")
with (files[-1]).open("ab") as cut:  # what a kill may leave
    cut.write(b"\x20\0\0\0\0\0\0\0\x01")
events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = set(events.Tags()["scalars"])


def curve(tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def close(a, b):
    return abs(a - b) <= 1e-6 * abs(b)


log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
expected = {}
for line in log:
    for key, value in line.items():
        if key != "step" and value is not None:
            tag = f"validation/{key.removeprefix('validation_')}" if key.startswith("validation_") else f"train/{key}"
            expected.setdefault(tag, []).append((line["step"], value))
expect({"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "validation/loss", "validation/bits_per_byte"} <= set(expected),
       f"tags of the log: {sorted(expected)}")
for tag, points in expected.items():
    expect(tag in tags, f"TensorBoard has no {tag}")
    got = curve(tag)
    expect([step for step, _ in got] == [step for step, _ in points], f"{tag}: other steps: {got}")
    expect(all(close(a[1], b[1]) for a, b in zip(got, points)), f"{tag}: other values")
sites = {tag.removeprefix("kurtosis/") for tag in tags if tag.startswith("kurtosis/")}
expect({"embedding", "blocks.0.attention.context", "blocks.1.mlp.output"} <= sites, f"sites: {sorted(sites)}")
for quantity, logged in (("kurtosis", "max_kurtosis"), ("max_abs", "max_abs")):
    largest = {}
    for site in sites:
        for step, value in curve(f"{quantity}/{site}"):
            largest[step] = max(value, largest.get(step, -math.inf))
    want = {line["step"]: line[logged] for line in log if logged in line}
    expect(set(largest) == set(want) and all(close(largest[s], want[s]) for s in want), f"{quantity}: not the log's largest")
print(f"{len(tags)} tags, {sum(len(curve(tag)) for tag in tags)} points")
shutil.rmtree(root)
print("passed")
