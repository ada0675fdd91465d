"""Kill a training run at random moments, start it again until it is done, and compare it with one that was not killed.

    python benchmarks/kill.py --kills=200 --out=results/kill

The run is a small network on the digits, on the CPU: it takes about five seconds, of which most are its start. Each
kill is a SIGKILL: half of them after a time drawn uniformly from that of a whole start, half at a moment in one of the
phases in turn, as the run's files show them. A run that is done is compared, and the next one begun. Everything is
compared to the bit: parameters, statistics, momenta, moving averages, and each record but what a clock said.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import absl.logging
import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from main import parse  # noqa: E402
from resnet_jax.run.checkpoints import Checkpoints  # noqa: E402
from resnet_jax.run.hardware import processor  # noqa: E402
from resnet_jax.run.metrics import read_metrics  # noqa: E402
from resnet_jax.run.workdir import versions  # noqa: E402
from resnet_jax.setup import build  # noqa: E402
from resnet_jax.training.state import TrainState  # noqa: E402

PHASES = ("start", "compilation", "training", "evaluation", "save", "end")
FIELDS = {
    "model.name": "cifar_resnet8",
    "model.overrides.stage_sizes": "(1,1)",
    "model.overrides.stage_widths": "(8,16)",
    "model.overrides.stem_width": "8",
    "training.ema_decay": "0.9",
    "training.epochs": "10",
    "training.log_every": "5",
    "parallel.devices": "1",
}
ARGUMENTS = ["--config=configs/digits.py", *(f"--config.{field}={value}" for field, value in FIELDS.items())]
TIMED = ("wall_seconds", "images_per_second", "versions")
LIMIT_SECONDS = 1200  # for one start: a machine may be ten times slower


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    """Start the run, or resume it."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    output = (workdir.parent / f"{workdir.name}.log").open("a")
    with output:
        return subprocess.Popen(
            [sys.executable, "main.py", *ARGUMENTS, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )


def phase(workdir: pathlib.Path, pid: int, records_before: int) -> str:
    """Return what the process is doing, as its files show it."""
    lock = workdir / ".lock"
    if not lock.exists() or f"process {pid} " not in lock.read_text():
        return "start"
    if any(workdir.glob("checkpoints/*tmp*")):
        return "save"
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    if len(lines) == records_before:
        return "compilation"
    try:
        last, epoch = json.loads(lines[-1]), json.loads(lines[-1])["epoch"]
    except (ValueError, IndexError):
        return "training"
    if last["split"] != "train":
        return "end" if epoch >= float(FIELDS["training.epochs"]) else "training"
    return "evaluation" if epoch % 1 < last_epoch_step(last) else "training"


def last_epoch_step(record: dict) -> float:
    """Return the share of an epoch that one step is: an epoch's last step ends less than it after the epoch's end."""
    return record["epoch"] / record["step"]


def kill(process: subprocess.Popen, workdir: pathlib.Path, wanted: str | None, delay: float, before: int) -> str | None:
    """Kill a run after `delay` seconds in the phase `wanted`, or of its life; return the phase, or None if it ended."""
    end = time.monotonic() + LIMIT_SECONDS
    while wanted and process.poll() is None and phase(workdir, process.pid, before) != wanted:
        if time.monotonic() > end:
            break
        time.sleep(0.002)
    try:
        process.wait(delay)
        return None
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return phase(workdir, process.pid, before)


def finish(workdir: pathlib.Path, cache: pathlib.Path) -> None:
    """Let a run end."""
    process = start(workdir, cache)
    if process.wait(LIMIT_SECONDS):
        raise SystemExit((workdir.parent / f"{workdir.name}.log").read_text())


def count_records(workdir: pathlib.Path) -> int:
    """Return how many records the next start will find and keep."""
    metrics = workdir / "metrics.jsonl"
    saved = max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)
    return sum(record["step"] <= saved for record in read_metrics(metrics)) if metrics.exists() else 0


def records(workdir: pathlib.Path) -> list[dict]:
    """Return what a run measured and its summary, without what a clock said."""
    found = [*read_metrics(workdir / "metrics.jsonl"), json.loads((workdir / "summary.json").read_text())]
    return [{name: value for name, value in record.items() if name not in TIMED} for record in found]


def arrays(workdir: pathlib.Path) -> TrainState:
    """Return the newest checkpoint's arrays, on the host."""
    with contextlib.closing(Checkpoints(workdir / "checkpoints", read_only=True)) as checkpoints:
        return jax.device_get(checkpoints.restore(build(parse(["main.py", *ARGUMENTS]).config).initial_state()))


def differences(workdir: pathlib.Path, expected_records: list[dict], expected: TrainState) -> list[str]:
    """Return what of a run that is done differs from what is expected."""
    found = [] if records(workdir) == expected_records else [f"{workdir.name}: records"]
    pairs = zip(*(jax.tree_util.tree_leaves_with_path(each) for each in (arrays(workdir), expected)), strict=True)
    return found + [
        f"{workdir.name}: {jax.tree_util.keystr(path)}" for (path, a), (_, b) in pairs if not np.array_equal(a, b)
    ]


def kill_often(kills: int, seed: int, folder: pathlib.Path, cache: pathlib.Path) -> dict[str, Any]:
    """Kill runs in `folder` so many times and return how often in which phase, and all that came out different."""
    draw = random.Random(seed)
    whole = folder / "whole"
    finish(whole, cache)
    began = time.monotonic()
    finish(whole, cache)  # changes nothing: it is there for the time of a start
    life = time.monotonic() - began
    expected = records(whole), arrays(whole)
    phases, runs, wrong = [], 0, []
    while len(phases) < kills:
        workdir, ended = folder / f"run{runs}", False
        while len(phases) < kills and not ended:
            by_phase = draw.random() < 0.5
            wanted = draw.choice(PHASES[1:]) if by_phase else None
            delay = draw.uniform(0, 0.01 if by_phase else life)
            before = count_records(workdir)
            killed_in = kill(start(workdir, cache), workdir, wanted, delay, before)
            ended = killed_in is None
            phases += [] if ended else [killed_in]
        finish(workdir, cache)
        wrong += differences(workdir, *expected)
        runs += 1
    return {
        "kills": len(phases),
        "phases": {name: phases.count(name) for name in PHASES},
        "runs": runs,
        "differences": wrong,
        "seed": seed,
    }


def main() -> None:
    """Kill, compare, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    values = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    absl.logging.set_verbosity(absl.logging.FATAL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        result = kill_often(values.kills, values.seed, folder, folder / "cache")
    result |= {
        "seconds": round(time.monotonic() - began),
        "machine": processor(),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }
    values.out.mkdir(parents=True, exist_ok=True)
    (values.out / "kill.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(bool(result["differences"]))


if __name__ == "__main__":
    main()
