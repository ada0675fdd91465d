"""Stop commands by signals in every phase, and look at what they leave: the table of phase, signal, receiver, workers.

    python benchmarks/signals.py --out=results/signals [--tries=200] [--seed=0]

A run trains a small network on a folder of pictures, small ones or ones that take longer to decode than a step takes,
so that it waits for data. Each try starts it, or resumes it, and sends SIGINT or SIGTERM in one phase: to its process,
to its whole process group (as `timeout`, `scancel` and systemd do), or as Ctrl-C in a pseudo-terminal. Sweeps, `pack`,
`predict` and `analyze` are stopped at random moments. Checked after each try: exit code 130 or 143; one sentence as the
last line, and no traceback or warning; no process of the session, no segment in /dev/shm and no partial file; in a run,
a checkpoint at the step that the sentence names. A run that was stopped again and again until it was done is compared,
to the bit, with one that was not.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import absl.logging
import jax
import numpy as np
import psutil
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kill import last_epoch_step, records  # noqa: E402
from resnet_jax.run.checkpoints import read_variables  # noqa: E402
from resnet_jax.run.hardware import processor  # noqa: E402
from resnet_jax.run.metrics import read_metrics  # noqa: E402
from resnet_jax.run.workdir import versions  # noqa: E402

RUN_PHASES = ("start", "worker start", "compilation", "training", "waiting for data", "evaluation", "save")
COMMANDS = ("sweep", "pack", "predict", "analyze")
RECEIVERS = ("process", "group", "terminal")
WORKERS = (0, 1, 4)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
EPOCHS = 6
FIELDS = {
    "model.name": "cifar_resnet8",
    "model.overrides.stage_sizes": "(1,1)",
    "model.overrides.stage_widths": "(8,16)",
    "model.overrides.stem_width": "8",
    "data.source": "folder",
    "data.image_size": "16",
    "data.resize": "16",
    "training.batch_size": "24",
    "training.epochs": str(EPOCHS),
    "training.log_every": "1",
    "evaluation.batch_size": "24",
    "parallel.devices": "1",
}
# Takes the terminal at its input for its own, and becomes the command.
ATTACH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
LIMIT_SECONDS = 600  # for one command: a machine may be ten times slower
GRACE_SECONDS = 30  # for what a command leaves to be gone
BAD = re.compile(r"Traceback|Warning|\bError\b|leaked|Event loop")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def make_pictures(folder: pathlib.Path, size: int, training: int, evaluation: int) -> None:
    """Write noise of three classes as JPEGs, under train/ and val/."""
    draw = np.random.default_rng(0)
    for split, count in (("train", training), ("val", evaluation)):
        for number in range(count):
            place = folder / split / "abc"[number % 3] / f"{number:03}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 128, (size, size, 3), np.uint8) + 60 * np.uint8(number % 3)
            Image.fromarray(pixels).save(place, quality=90)


@dataclasses.dataclass
class Command:
    """A command that was started in a session of its own, with a terminal of its own where it is asked for."""

    arguments: list[str]
    environment: dict[str, str]
    terminal: bool = False

    def __post_init__(self):
        self._shared_memory = shared_memory()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the command)
        self._text = ""
        self._master, streams = None, dict(stdout=self._output, stderr=self._output)
        arguments = self.arguments
        if self.terminal:
            self._master, device = pty.openpty()
            streams = dict(stdin=device, stdout=device, stderr=device)
            arguments = [sys.executable, "-I", "-S", "-c", ATTACH, *self.arguments]
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=self.environment, start_new_session=True, **streams)
        if self.terminal:
            os.close(device)
            self._copier = threading.Thread(target=self._copy, daemon=True)
            self._copier.start()

    def _copy(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal's other end, or the file, is closed
            while text := os.read(self._master, 65536):
                self._output.write(text)
                self._output.flush()

    def send(self, number: int, receiver: str) -> None:
        """Send a signal; to "terminal" it is the key of Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            if receiver == "terminal":
                os.write(self._master, b"\x03")
            elif receiver == "group":
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code, once the terminal has shown all that was written."""
        code = self.process.wait(LIMIT_SECONDS)
        if self.terminal:
            self._copier.join(GRACE_SECONDS)
        return code

    @property
    def output(self) -> str:
        """What it has written, without escape sequences."""
        if not self._output.closed:
            self._text = ESCAPES.sub("", os.pread(self._output.fileno(), 10**7, 0).decode(errors="replace"))
        return self._text

    @property
    def watches(self) -> bool:
        """Whether its first lines have run: in the tenth of a second before, Python itself ends by a signal."""
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:  # it has ended
            return True
        masked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
        return bool(masked >> (signal.SIGTERM - 1) & 1)

    @property
    def children(self) -> list[psutil.Process]:
        """The processes of its session but itself."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if process.pid != self.process.pid and os.getsid(process.pid) == self.process.pid:
                    found.append(process)
        return found

    def left_behind(self) -> list[str]:
        """Return what of it is there after its end: processes and shared memory."""
        end = time.monotonic() + GRACE_SECONDS
        while True:
            left = [f"process {process.pid}" for process in self.children]
            left += [f"/dev/shm/{name}" for name in shared_memory() - self._shared_memory if not mapped(name)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.1)

    def close(self) -> None:
        """End all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for process in self.children:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._master is not None:
            os.close(self._master)
        self._text = self.output
        self._output.close()


def shared_memory() -> set[str]:
    """Return the names in /dev/shm."""
    folder = pathlib.Path("/dev/shm")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def mapped(name: str) -> bool:
    """Return whether a process of this machine uses a segment, which is then not left behind."""
    for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f"/dev/shm/{name}" in maps.read_text():
                return True
    return False


def phase(command: Command, workdir: pathlib.Path, records_before: int, slow: bool) -> str:
    """Return what a run is doing, as its files and processes show it."""
    if not command.watches:
        return "interpreter"
    lock = workdir / ".lock"
    if not lock.exists() or f"process {command.process.pid} " not in lock.read_text():
        return "start"
    if any(workdir.glob("checkpoints/*tmp*")):
        return "save"
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    if len(lines) <= records_before:
        return (
            "worker start" if any("spawn_main" in " ".join(arguments(p)) for p in command.children) else "compilation"
        )
    try:
        last = json.loads(lines[-1])
    except ValueError:
        return "training"
    if last["split"] == "train" and last["epoch"] % 1 < last_epoch_step(last):
        return "evaluation"
    return "waiting for data" if slow else "training"


def arguments(process: psutil.Process) -> list[str]:
    """Return the command line of a process that may have ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def environment(cache: pathlib.Path) -> dict[str, str]:
    """Return the environment of every command: a CPU, and compiled programs that are kept."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TERM": "xterm",
    }


def run_command(workdir: pathlib.Path, pictures: pathlib.Path, workers: int) -> list[str]:
    """Return the command of a run."""
    fields = FIELDS | {"data.path": str(pictures), "data.workers": str(workers)}
    named = [f"--config.{field}={value}" for field, value in fields.items()]
    return [sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={workdir}", *named]


def count_records(workdir: pathlib.Path) -> int:
    """Return how many records the next start will keep, at most."""
    metrics = workdir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def stop(command: Command, ready: Callable[[], bool], number: int, receiver: str) -> tuple[int, list[str]]:
    """Send a signal once the command is ready for it; return its exit code and what is wrong with its end."""
    try:
        end = time.monotonic() + LIMIT_SECONDS
        while command.process.poll() is None and not ready() and time.monotonic() < end:
            time.sleep(0.002)
        command.send(number, receiver)
        code = command.wait()
        left, output = command.left_behind(), command.output
    finally:
        command.close()
    wrong = [f"left {each}" for each in left]
    if found := BAD.search(output):
        wrong.append(f"printed {output[max(0, found.start() - 200) : found.end() + 300]}")
    if code == 0:  # it was done before
        return code, wrong
    if code != 128 + number:
        wrong.append(f"ended with {code}: {output[-500:]}")
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines or not lines[-1].startswith("Stopped"):
        wrong.append(f"ended without the sentence: {lines[-3:]}")
    return code, wrong


def partial_files(folder: pathlib.Path) -> list[str]:
    """Return the names of half-written files in a folder of a run or of results."""
    return [f"left {path}" for path in folder.rglob("*") if re.search(r"\.partial|\.draft|tmp", path.name)]


def stop_run(folder: pathlib.Path, case: tuple, draw: random.Random) -> tuple[str, list[str]]:
    """Stop a run once; return in which phase that was, and what is wrong with it."""
    wanted, number, receiver, workers = case
    slow = wanted == "waiting for data"
    pictures = folder / ("slow" if slow else "fast")
    workdir = folder / f"run-{pictures.name}"
    before = count_records(workdir)
    command = Command(
        run_command(workdir, pictures, workers), environment(folder / "cache"), terminal=receiver == "terminal"
    )
    delay, seen, since = draw.uniform(0, 1.0 if wanted == "start" else 0.02), "", 0.0

    def ready():
        nonlocal delay, seen, since
        now = phase(command, workdir, before, slow)
        if seen == wanted != now:
            delay /= 2  # the phase was over sooner: be quicker the next time
        if now == wanted and seen != wanted:
            since = time.monotonic()
        seen = now
        return seen == wanted and time.monotonic() - since >= delay

    code, wrong = stop(command, ready, number, receiver)
    wrong += partial_files(workdir) if workdir.exists() else []
    if (
        code
        and (step := re.search(r"Stopped at step (\d+)", command.output))
        and not (workdir / "checkpoints" / step[1] / "default").is_dir()
    ):
        wrong.append(f"no checkpoint of step {step[1]}")
    if code and lost(workdir):
        wrong.append(f"lost steps while in {seen}: {command.output[-300:]}")
    if code == 0:
        wrong += compare(workdir, folder / f"whole-{pictures.name}")
        remove(workdir)
    return (seen or "start") if code else "end", wrong


def lost(workdir: pathlib.Path) -> bool:
    """Return whether a step that was recorded is in no checkpoint."""
    if not (workdir / "metrics.jsonl").exists():
        return False
    taken = [record["step"] for record in read_metrics(workdir / "metrics.jsonl") if record["split"] == "train"]
    saved = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    return max(taken, default=0) > max(saved, default=0)


def remove(folder: pathlib.Path) -> None:
    """Remove a folder of results, if there is one."""
    if folder.exists():
        shutil.rmtree(folder)


def compare(workdir: pathlib.Path, whole: pathlib.Path) -> list[str]:
    """Return what differs between a finished run that was stopped and one that was not."""
    wrong = [] if records(workdir) == records(whole) else [f"{workdir.name}: other records"]
    pairs = zip(*(jax.tree_util.tree_leaves_with_path(read_variables(each)) for each in (workdir, whole)), strict=True)
    return wrong + [
        f"{workdir.name}: {jax.tree_util.keystr(at)}" for (at, a), (_, b) in pairs if not np.array_equal(a, b)
    ]


def other_command(name: str, folder: pathlib.Path, workers: int) -> list[str]:
    """Return a command beside training."""
    run = folder / "whole-fast"
    module = [sys.executable, "-m", "resnet_jax"]
    if name == "sweep":
        fields = ("--config.base.training.steps=30", "--config.base.parallel.devices=1", "--config.seeds=(0,)")
        return [
            *(sys.executable, "main.py", "--config=configs/sweeps/shortcuts.py:digits"),
            *(f"--workdir={folder / 'sweep'}", *fields),
        ]
    if name == "pack":
        target = folder / f"packed{time.time_ns()}"
        return [
            *module,
            "pack",
            str(folder / "slow"),
            str(target),
            "--shard-examples=2",
            f"--workers={max(1, workers)}",
        ]
    if name == "predict":
        pictures = [str(path) for path in sorted((folder / "slow" / "val" / "a").iterdir())]
        return [*module, "predict", *pictures, f"--weights={run}", f"--pictures={folder / 'seen'}"]
    return [*module, "analyze", "deletion", str(run), f"--out={folder / 'analysis' / 'deletion.json'}"]


def stop_other(name: str, folder: pathlib.Path, case: tuple, life: dict, draw: random.Random) -> tuple[str, list[str]]:
    """Stop a command beside training at a random moment of its life."""
    _, number, receiver, workers = case
    command = Command(other_command(name, folder, workers), environment(folder / "cache"), receiver == "terminal")
    moment = time.monotonic() + draw.uniform(0.2, life[name])
    code, wrong = stop(command, lambda: command.watches and time.monotonic() > moment, number, receiver)
    for place in ("sweep", "seen", "analysis"):
        wrong += partial_files(folder / place) if (folder / place).exists() else []
    if not code:
        remove(folder / "sweep")
    return name if code else f"{name}, done", wrong


def prepare(folder: pathlib.Path) -> None:
    """Make the pictures, and the runs that nobody stops."""
    make_pictures(folder / "fast", 24, 120, 48)
    make_pictures(folder / "slow", 900, 48, 24)
    for kind in ("fast", "slow"):
        command = run_command(folder / f"whole-{kind}", folder / kind, 0)
        subprocess.run(command, cwd=ROOT, env=environment(folder / "cache"), check=True, stdout=subprocess.DEVNULL)


def cases(tries: int, draw: random.Random) -> list[tuple]:
    """Return so many tries: every combination once before any is repeated, in random order."""
    every = [
        (each, number, receiver, workers)
        for each in (*RUN_PHASES, *COMMANDS)
        for number in SIGNALS
        for receiver in RECEIVERS
        for workers in (WORKERS if each not in ("sweep", "predict", "analyze") else (0,))
        if (receiver, number) != ("terminal", signal.SIGTERM) and (each, workers) != ("worker start", 0)
    ]
    chosen = []
    while len(chosen) < tries:
        draw.shuffle(every)
        chosen += every
    return chosen[:tries]


def main() -> None:
    """Stop commands, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="phases and commands to try, separated by commas")
    values = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    absl.logging.set_verbosity(absl.logging.FATAL)
    draw, began = random.Random(values.seed), time.monotonic()
    rows, faults = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prepare(folder)
        life = {name: lifetime(name, folder) for name in COMMANDS}
        chosen = cases(10 * values.tries if values.only else values.tries, draw)
        chosen = [case for case in chosen if not values.only or case[0] in values.only.split(",")][: values.tries]
        for number, case in enumerate(chosen):
            name = case[0]
            seen, wrong = (
                stop_other(name, folder, case, life, draw) if name in COMMANDS else stop_run(folder, case, draw)
            )
            row = (seen, case[1].name, case[2], case[3])
            rows[row] += 1
            faults += [f"{' '.join(map(str, row))}: {each}" for each in wrong]
            print(f"{number + 1} of {len(chosen)}:", *row, *wrong, flush=True)
    result = {
        "tries": sum(rows.values()),
        "stopped": sum(count for row, count in rows.items() if "done" not in row[0] and row[0] != "end"),
        "faults": faults,
        "rows": [
            dict(zip(("phase", "signal", "to", "workers", "tries"), (*row, count), strict=True))
            for row, count in sorted(rows.items())
        ],
        "seed": values.seed,
        "seconds": round(time.monotonic() - began),
        "machine": processor(),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }
    values.out.mkdir(parents=True, exist_ok=True)
    (values.out / "signals.json").write_text(json.dumps(result, indent=2) + "\n")
    (values.out / "table.md").write_text(table(result))
    print(table(result))
    sys.exit(bool(faults))


def lifetime(name: str, folder: pathlib.Path) -> float:
    """Return the seconds that a command takes where nobody stops it."""
    began = time.monotonic()
    done = subprocess.run(
        other_command(name, folder, 1), cwd=ROOT, env=environment(folder / "cache"), stdout=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}; see above.")
    remove(folder / "sweep")
    return time.monotonic() - began


def table(result: dict) -> str:
    """Return the table: a row a phase and signal, a column a receiver and number of workers."""
    columns = sorted({(row["to"], row["workers"]) for row in result["rows"]})
    lines = ["| phase | signal | " + " | ".join(f"{to}, {workers} workers" for to, workers in columns) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(columns))
    for where, number in sorted({(row["phase"], row["signal"]) for row in result["rows"]}):
        counts = {
            (row["to"], row["workers"]): row["tries"]
            for row in result["rows"]
            if (row["phase"], row["signal"]) == (where, number)
        }
        lines.append(f"| {where} | {number} | " + " | ".join(str(counts.get(column, "")) for column in columns) + " |")
    lines.append(f"\n{result['tries']} tries, {len(result['faults'])} faults. {result['date']}, {result['machine']}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
