"""Train 10,000 steps and measure what must not grow: memory, files and the time of a step; and what saving costs.

    python benchmarks/long_run.py --out=results/long_run/long_run.json [--steps=10000] [--epochs=10]

The network is small and learns the digits on the CPU, so that nothing hides the cost of the loop. It is saved and
evaluated every ten epochs, which are about a second, or every `--epochs`. A thread reads the memory and the files of
the run each second. Caches of the storage library fill and are given back in the first half of the run: growth is from
the sixth tenth to the last.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import optax

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from main import parse  # noqa: E402
from resnet_jax import create_model, runner  # noqa: E402
from resnet_jax.run.checkpoints import Checkpoints  # noqa: E402
from resnet_jax.run.hardware import processor  # noqa: E402
from resnet_jax.run.metrics import read_metrics  # noqa: E402
from resnet_jax.run.workdir import versions  # noqa: E402
from resnet_jax.training.state import create_state  # noqa: E402

ARGUMENTS = [
    "--config=configs/digits.py",
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(8,16)",
    "--config.model.overrides.stem_width=8",
    "--config.training.log_every=50",
    "--config.parallel.devices=1",
]


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files_and_bytes(folder: pathlib.Path) -> tuple[int, int]:
    """Return how many files lie below a folder, and how large they are together."""
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # deleted since it was listed
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


class Saves(Checkpoints):
    """Checkpoints that note how long training waited for each save."""

    seconds: list[float] = []  # noqa: RUF012

    def save(self, *arguments) -> None:
        """Save, and note how long it took to come back."""
        began = time.perf_counter()
        super().save(*arguments)
        self.seconds.append(time.perf_counter() - began)


def seconds_waited(name: str, folder: pathlib.Path) -> float:
    """Return how long training waits, at most, for one of five saves of a network with its momenta."""
    params = create_state(create_model(name), optax.identity(), jax.random.key(0), (32, 32, 3)).params
    state = {"params": params, "momenta": jax.tree.map(jnp.copy, params)}
    with contextlib.closing(Saves(folder)) as saves:
        for step in range(1, 6):
            saves.save(step, state)
            saves.wait()
    return max(Saves.seconds[-5:])


def tenths(samples: list[float]) -> list[float]:
    """Return the median of each tenth of some samples."""
    size = len(samples) // 10
    return [statistics.median(samples[part * size : (part + 1) * size]) for part in range(10)]


def measure(steps: int, epochs: int, folder: pathlib.Path) -> dict:
    """Train so many steps in `folder`, saved every so many epochs, and return what was measured."""
    memory, files, done = [], [], threading.Event()

    def watch():
        while not done.wait(1):
            memory.append(resident_bytes())
            files.append(files_and_bytes(folder))

    runner.Checkpoints = Saves
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    often = [f"--config.{what}.every_epochs={epochs}" for what in ("evaluation", "checkpoint")]
    arguments = ["main.py", *ARGUMENTS, *often, f"--config.training.steps={steps}"]
    try:
        runner.run(parse(arguments).config, folder / "run", "train")
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - began
    train = [record for record in read_metrics(folder / "run" / "metrics.jsonl") if record["split"] == "train"]
    step_ms = [1000 * 64 / record["images_per_second"] for record in train if record["images_per_second"]]
    megabytes, step_ms = [value / 2**20 for value in tenths(memory)], tenths(step_ms)
    saves = {"median": round(statistics.median(Saves.seconds), 4), "most": round(max(Saves.seconds), 4)}
    number, large = len(Saves.seconds), seconds_waited("resnet50", folder / "resnet50")
    return {
        "steps": steps,
        "epochs_between_saves": epochs,
        "seconds": round(seconds, 1),
        "memory_mb_by_tenth": [round(value, 1) for value in megabytes],
        "memory_growth": round(megabytes[-1] / megabytes[5] - 1, 4),
        "step_ms_by_tenth": [round(value, 3) for value in step_ms],
        "most_files": max(count for count, _ in files),
        "most_mb_of_files": round(max(size for _, size in files) / 2**20, 2),
        "records": len(read_metrics(folder / "run" / "metrics.jsonl")),
        "saves": number,
        "seconds_waited_a_save": saves,
        "seconds_waited_a_save_of_resnet50": round(large, 4),
        "share_waited_at_a_save_a_minute": round(large / 60, 5),
    }


def main() -> None:
    """Measure and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=10, help="between saves")
    values = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(values.steps, values.epochs, pathlib.Path(folder))
    result |= {
        "machine": processor(),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }
    values.out.parent.mkdir(parents=True, exist_ok=True)
    values.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
