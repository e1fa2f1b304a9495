"""A sweep killed at any moment goes on where it was; a failing run stops no other; bad files leave nothing behind."""
import fcntl
import json
import shutil
import signal
import time

from harness import *

root = folder()
COMMON = """
  model: {layers: 1, heads: 2, dim: 16, context: 16, vocab: 256, mlp_dim: 32, dropout: 0.1}
  data: {path: "generator:wikipedia", split: [8000, 400, 400]}
  train: {device: cpu, batch: 2, steps: STEPS, eval_every: 0, checkpoint_every: 100, log_every: 10, threads: 1}
  analysis: {every: 10}
"""
VARIANTS = """
variants:
  softmax_0: {attention: {n: 0}}
  sigmoid: {config: sigmoid.yaml}
"""
(root / "sigmoid.yaml").write_text("attention: {normalizer: sigmoid}\ntrain: {steps: 7}\n")


def write_sweep(name, steps=30, seeds="[1, 2]", variants=VARIANTS, more=""):
    path = root / f"{name}.yaml"
    path.write_text(f"name: {name}\ndirectory: {root}/{name}\nseeds: {seeds}\ncommon:{COMMON.replace('STEPS', str(steps))}{variants}{more}")
    return path, root / name


def one_line(text):
    return len(text.splitlines()) == 1


# What is wrong with a file: one line that names file, line and key, and nothing is made of it.
bad = [
    ("nowhere.yaml", None),
    ("variants: found none", "name: bad\n"),
    ("bad.yaml:1: varants: unknown key (nearest known: variants)", "varants: {a: {}}\n"),
    ("bad.yaml:2: attention.normaliser: unknown key (nearest known: attention.normalizer)", "variants:\n  a: {attention: {normaliser: sigmoid}}\n"),
    ("bad.yaml:2: variants.a: attention.n: found -1", "variants:\n  a: {attention: {n: -1}}\n"),
    ("bad.yaml:1: common.train.seed: seeds stand in the list 'seeds'", "common: {train: {seed: 3}}\nvariants: {a: {}}\n"),
    ("bad.yaml:1: variants.a.name: a run has the name of its variant", "variants: {a: {name: b}}\n"),
    ("bad.yaml:2: variants.a: expected a map, found 'b'", "variants:\n  a: b\n"),
    ("bad.yaml:2: variants: found '../a', expected letters", "variants:\n  ../a: {}\n"),
    ("bad.yaml:1: config: " + str(root / "nothere.yaml") + ": no such config file", "config: nothere.yaml\nvariants: {a: {}}\n"),
    ("bad.yaml:1: seeds: found one twice", "seeds: [1, 1]\nvariants: {a: {}}\n"),
    ("bad.yaml:1: seeds: found none", "seeds: []\nvariants: {a: {}}\n"),
    ("bad.yaml:1: seeds: expected", "seeds: [-1]\nvariants: {a: {}}\n"),
    ("bad.yaml:1: quantize: found 'int8', expected schemes such as W8A8", "quantize: [int8]\nvariants: {a: {}}\n"),
    ("bad.yaml:1: name: found 'a/b'", "name: a/b\nvariants: {a: {}}\n"),
    ("bad.yaml:3: variants.b: train.device: found cpu, expected auto as in variants.a", "variants:\n  a: {}\n  b: {train: {device: cpu}}\n"),
    ("bad.yaml:1: variants.a: train.device: found cuda:1", "variants: {a: {train: {device: 'cuda:1'}}}\n"),
]
for mention, text in bad:
    path = root / ("nowhere.yaml" if text is None else "bad.yaml")
    if text is not None:
        path.write_text(text)
    before = sorted(root.rglob("*"))
    status, out, err = run("sweep", path, cwd=root)
    expect(status == 2 and mention in err and one_line(err), f"{text!r}: {status} {err}")
    expect(sorted(root.rglob("*")) == before, f"{text!r}: left something behind")
path, directory = write_sweep("dry")
for arguments, mention in ((["--devices", "0"], "--devices: found 0, expected cpu"), (["--dry-run", "--devices", ","], "--devices: found ,")):
    status, out, err = run("sweep", path, *arguments)
    expect(status == 2 and mention in err and one_line(err), f"{arguments}: {status} {err}")
status, out, err = run("sweep", path, "--dry-run")
expect(status == 0 and [line.split(":")[0].strip() for line in out.splitlines()[1:]] ==
       ["softmax_0-seed1", "softmax_0-seed2", "sigmoid-seed1", "sigmoid-seed2"] and "new" in out, f"dry run: {status} {out} {err}")
expect(not directory.exists(), "a dry run touches nothing")

# A variant that cannot be trained is one line; the others go on, are quantised and compared.
path, directory = write_sweep("whole", variants=VARIANTS + "  absent: {data: {path: nowhere.txt}}\n", more="quantize: [W8A8]\n")
status, out, err = run("sweep", path)
failures = [line for line in err.splitlines() if "absent-seed" in line]
expect(status == 1 and len(failures) == 3 and all("nowhere.txt: no such file" in line for line in failures[:2]) and
       "2 of 6 runs failed: absent-seed1, absent-seed2" in failures[2], f"a failing variant: {status} {err}")
for name in ("softmax_0-seed1", "softmax_0-seed2", "sigmoid-seed1", "sigmoid-seed2"):
    for file in ("results.json", "quantized.json"):
        expect((directory / "runs" / name / file).exists(), f"{name}: no {file}")
for ending in ("json", "md") if "no report.html: this build" in err else ("html", "json", "md"):
    expect((directory / f"report.{ending}").stat().st_size > 0, f"no report.{ending}")
config = (directory / "runs/sigmoid-seed2/config.yaml").read_text()
expect("seed: 2" in config and "name: sigmoid" in config and "steps: 30" in config and "normalizer: sigmoid" in config, f"config: {config}")

# What is complete stays as it is; what quantised an earlier checkpoint, or by another scheme, is made again.
runs = directory / "runs"
before = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
stale = runs / "softmax_0-seed1/quantized.json"
os.utime(stale, (1, 1))
other = runs / "sigmoid-seed1/quantized.json"
other.write_text(other.read_text().replace("W8A8", "W4A8"))
status, out, err = run("sweep", path)
changed = [p for p, time_ns in before.items() if p.stat().st_mtime_ns != time_ns]
expect(status == 1 and sorted(changed) == sorted([stale, other]), f"complete runs were changed: {changed} {err}")
expect(stale.stat().st_mtime > 1, "of an earlier checkpoint")
expect(json.loads(other.read_text())["schemes"][0]["scheme"] == "W8A8" and out.count("complete already") == 4, f"rerun: {out}")

# Another config in the same directory: refused run by run.
status, out, err = run("sweep", write_sweep("whole", steps=31)[0])
expect(status == 1 and err.count("belongs to another config: train.steps: 31 here, 30 there") == 4, f"another config: {status} {err}")


def start_until(path, file):
    """A sweep in the middle of the run that just wrote `file`."""
    process = start("sweep", path)
    while not list(file.parent.glob(file.name)):
        time.sleep(0.005)
        expect(process.poll() is None, f"ended early: {process.returncode} {process.stderr.read() if process.poll() is not None else ''}")
    return process


def has_closed_its_files(process):
    """What a process on its way out has done when its locks are free; it may be there for a moment yet."""
    try:
        return not any((process / "fd").iterdir())
    except OSError:
        return True


# Killed, or asked to stop, in the middle of each of its runs.
path, directory = write_sweep("killed", steps=600, seeds="[1]")
status, out, err = run("sweep", path)
expect(status == 0, f"the unbroken sweep: {status} {err}")
whole = {name: root / name for name in ("softmax_0-seed1", "sigmoid-seed1")}
for name in whole:
    shutil.copytree(directory / "runs" / name, whole[name])
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
    shutil.rmtree(directory)
    for name in whole:
        process = start_until(path, directory / "runs" / name / "checkpoints/step_*.h5")
        if number == signal.SIGTERM:
            status, out, err = run("sweep", path)
            expect(status == 1 and "is at work there" in err and one_line(err), f"two sweeps in a directory: {status} {err}")
        if number == signal.SIGKILL:
            child = pathlib.Path("/proc", pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip())
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
        if number == signal.SIGKILL:  # the run that is left saves and ends, and keeps the directory until then
            with (directory / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                expect(has_closed_its_files(child), "the run that is left does not keep the directory")
            expect("stopped by signal 15" in (directory / "logs" / f"{name}.txt").read_text(), "the run that is left did not save")
        else:
            expect(process.returncode == 128 + number, f"signal {number}: status {process.returncode} {err}")
            expect("failed" not in err and f"stopped by signal {int(number)}" in err, f"signal {number}: {err}")
        expect(not (directory / "runs" / name / "results.json").exists(), f"signal {number}: too late, the run is complete")
    process = start_until(path, directory / "report.html")
    err = process.communicate(timeout=60)[1]
    expect(process.returncode == 0, f"after signal {number}: {process.returncode} {err}")
    for name in whole:
        run_directory = directory / "runs" / name
        expect(results_without_times(run_directory) == results_without_times(whole[name]), f"after signal {number}: results of {name} differ")
        expect(log_without_times(run_directory) == log_without_times(whole[name]), f"after signal {number}: log of {name} differs")
shutil.rmtree(root)
print("passed")
