"""How fast runs of a small network are on one GPU, alone, several at once, and several at once under NVIDIA's MPS.

    python benchmarks/processes.py --out=results/seeds/h200_processes.json [--runs=3] [--network=resnet20]
        [--dtype=bfloat16] [--steps=6000]

Each is a run of `main.py` on images of CIFAR-10's form that are noise, as the jobs of a sweep are (`--variant=K`). A
small network leaves most of a GPU idle. Without MPS the processes take turns on it; with it (`nvidia-cuda-mps-control`,
which comes with the driver) their kernels run side by side. Images a second of each run, medians of its records.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import write  # noqa: E402
from resnet_jax.run import interrupts  # noqa: E402


def make_images(folder: pathlib.Path) -> None:
    """Write CIFAR-10's files with noise in them: images whose brightness says the class."""
    random, folder = np.random.default_rng(0), folder / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 128, (10_000, 3073), np.uint8)
        records[:, 0] %= 10
        records[:, 1:] += 12 * records[:, :1]
        records.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n")


@contextlib.contextmanager
def mps(folder: pathlib.Path):
    """Start MPS's daemon, give the environment of its clients, and end it."""
    environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    try:
        yield environment
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", env=environment, text=True, check=True)


def together(commands: list[list[str]], environment: dict[str, str], **streams: int) -> list[int]:
    """Start commands at once, wait for all, and return their exit codes; each gets its share of a GPU's memory."""
    if len(commands) > 1:  # JAX would take most of it for the first
        environment = environment | {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / len(commands):.2f}"}
    processes = []

    def ask(number, frame):
        for process in processes:
            process.send_signal(signal.SIGTERM)  # they save what they have, and end

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with interrupts.blocked():  # until all of them can be asked
            processes += [subprocess.Popen(command, cwd=ROOT, env=environment, **streams) for command in commands]
        return [process.wait() for process in processes]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(count: int, folder: pathlib.Path, values: argparse.Namespace, environment: dict) -> list[float]:
    """Return the images a second of so many runs at once."""
    command = [sys.executable, "main.py", f"--config=configs/cifar10.py:{values.network}"]
    command += [f"--config.data.path={folder}", f"--config.model.dtype={values.dtype}"]
    command += [f"--config.training.steps={values.steps}"]
    command += [f"--config.{group}.every_epochs=1000" for group in ("evaluation", "checkpoint")]
    with tempfile.TemporaryDirectory() as runs:
        folders = [pathlib.Path(runs, str(number)) for number in range(count)]
        commands = [[*command, f"--workdir={each}"] for each in folders]
        if any(together(commands, environment, stdout=subprocess.DEVNULL)):
            raise SystemExit("a run failed; see above.")
        speeds = [json.loads((each / "summary.json").read_text())["images_per_second"] for each in folders]
        if None in speeds:
            raise SystemExit(f"--steps={values.steps} is too few: speed is measured from step 100 on, by the hundred.")
        return speeds


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--network", default="resnet20", help="of configs/cifar10.py")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=6000)
    values = parser.parse_args()
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_images(folder)
        for count in (1, values.runs):
            speeds[f"{count} at once"] = run(count, folder, values, dict(os.environ))
        if shutil.which("nvidia-cuda-mps-control"):
            with mps(folder) as environment:
                speeds[f"{values.runs} at once, MPS"] = run(values.runs, folder, values, environment)
    for name, each in speeds.items():
        print(f"{name:20} {sum(each):9.0f} images a second in all")
    settings = {name: getattr(values, name) for name in ("network", "dtype", "steps")}
    write(values.out, {**settings, "images_per_second": speeds})


if __name__ == "__main__":
    main()
