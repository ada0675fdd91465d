"""Measure the input pipeline: images a second and core, by form, transform and workers, beside other libraries'.

    python benchmarks/input.py --path=FOLDER [--peer-python=PYTHON ...] [--out=results/input]

FOLDER holds JPEGs, in folders or not. They are packed as they are, with a short side of 256, and as pixels of 256 by
256; then each pipeline reads them again and again, pinned to a core or to as many as it has worker processes, by turns
with all others over several rounds. A rate is images for each second of CPU time that the pipeline's processes took, in
which other work on a shared machine counts less than in the time that passed, which is given too. Rates are the medians
of the rounds, and ratios the medians of the rounds' ratios. Each PYTHON is an interpreter with TensorFlow, or with
torch and torchvision (`input_peer.py`). The table is printed, and written to OUT as table.md, with all figures in
input.json.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from resnet_jax.data.decoding import decode_jpeg, dimensions  # noqa: E402
from resnet_jax.data.packing import PackFormat, pack  # noqa: E402
from resnet_jax.data.pipeline import EvaluationOrder, Streamed, TrainingOrder  # noqa: E402
from resnet_jax.data.sources import Dataset  # noqa: E402
from resnet_jax.data.sources.folder import EXTENSIONS, Files  # noqa: E402
from resnet_jax.data.sources.records import open_records  # noqa: E402
from resnet_jax.data.transforms import RandomResizedCrop, ResizeCenterCrop  # noqa: E402
from resnet_jax.run.hardware import processor  # noqa: E402
from resnet_jax.run.workers import Workers  # noqa: E402

SAMPLES = ROOT.parent / "shared" / "data" / "imagenet_samples"
FORMS = {"kept": PackFormat(), "short side 256": PackFormat(256), "raw 256": PackFormat(256, pixels=True)}
SIZE, RESIZE, BATCH = 224, 256, 64
DEMAND = 7940  # images a second that one H200 trains ResNet-50 on: MLPerf Training v4.0, of a submission's eight
PEERS = {
    "tensorflow": {"tf.data, as in Flax's ImageNet example": True, "the same without its normalization": False},
    "torch": {"torch DataLoader, Pillow": False},
}


def own_rate(job: dict) -> dict[str, float]:
    """Return the rates of the project's own pipeline, pinned to the job's cores."""
    os.sched_setaffinity(0, job["cores"])
    data = open_records(job["path"])
    share = range(job["batch"])
    workers = Workers(job["workers"]) if job["workers"] else None
    if job["transform"] == "train":
        order = TrainingOrder(len(data.train), job["batch"], 0, share)
        loader = Streamed(data.train, order, RandomResizedCrop(SIZE, flip=0.0), 0, workers)
    else:
        order = EvaluationOrder(10**9, job["batch"], share)
        loader = Streamed(Again(data.train), order, ResizeCenterCrop(RESIZE, SIZE), 0, workers)
    with contextlib.closing(loader.batches((step, step + 1) for step in range(10**6))) as chunks:
        for _ in range(job["warm_up"]):
            next(chunks)
        started, busy, images = time.perf_counter(), cpu_seconds(), 0
        while (passed := time.perf_counter() - started) < job["seconds"]:
            images += next(chunks)["image"].shape[1]
        return {"rate": images / (cpu_seconds() - busy), "wall": images / passed}


def cpu_seconds() -> float:
    """Return the CPU time that this process and its workers have taken."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class Again:
    """A split that starts again after its last example."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        return self.split[index % len(self.split)]

    def name(self, index):
        """The example's name in the split."""
        return self.split.name(index % len(self.split))


def run(python: str, script: str, job: dict) -> dict:
    """Do a job in a process of its own and return what it prints."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        done = subprocess.run(
            [python, str(ROOT / "benchmarks" / script), file.name],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "PYTHONPATH": str(ROOT) if python == sys.executable else ""},
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def peers_of(pythons: list[str]) -> dict[str, str]:
    """Return which interpreter has which peer."""
    found = {}
    for python in pythons:
        check = "import importlib.util as u; print(*(n for n in ('tensorflow', 'torch') if u.find_spec(n)))"
        for name in subprocess.run([python, "-c", check], capture_output=True, text=True, check=True).stdout.split():
            found[name] = python
    return found


def rounds_of(jobs: dict[tuple, tuple[str, str, dict]], rounds: int) -> dict[tuple, list[dict[str, float]]]:
    """Return the rates of each job in each round: all by turns."""
    rates = {key: [] for key in jobs}
    for number in range(rounds):
        for key, (python, script, job) in jobs.items():
            rates[key].append(run(python, script, job))
            print(
                f"round {number + 1}/{rounds}  {' '.join(map(str, key)):50} {rates[key][-1]['rate']:8.0f}", flush=True
            )
    return rates


def crops_of(files: list[str]) -> tuple[list, list, float]:
    """Return random crops of files, their pixels by Pillow (bicubic, antialiased), and how far from it ours are."""
    crop, windows, expected, far = RandomResizedCrop(SIZE, interpolation="bicubic", flip=0.0), [], [], []
    for number, file in enumerate(files):
        content = pathlib.Path(file).read_bytes()
        box = crop.box(*dimensions(content), np.random.default_rng(number))
        left, top, width, height = box
        pixels = decode_jpeg(content)[top : top + height, left : left + width]
        pillow = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        far.append(np.abs(crop(content, np.random.default_rng(number)).astype(int) - pillow).mean())
        windows.append((top, left, height, width))
        expected.append(pillow)
    return windows, expected, float(np.mean(far))


def quality(files: list[str], peers: dict[str, str], folder: pathlib.Path) -> dict[str, float]:
    """Return how far images are from their references, in 1/255: crops from Pillow's, evaluation from torchvision's."""
    windows, expected, far = crops_of(files)
    found = {"training crop, bicubic, from Pillow's antialiased one": far}
    job = {"files": files, "size": SIZE, "cores": [min(os.sched_getaffinity(0))]}
    if "tensorflow" in peers:
        np.savez(folder / "crops.npz", windows=np.array(windows), images=np.stack(expected))
        crops = {"peer": "tensorflow", "task": "crops", "crops": str(folder / "crops.npz")}
        found["the same of tf.data"] = run(peers["tensorflow"], "input_peer.py", job | crops)["far"]
    if "torch" in peers:
        for short in (256, 232):
            out = str(folder / f"evaluated{short}.npy")
            evaluation = {"peer": "torch", "task": "evaluate", "transform": "evaluate", "resize": short, "out": out}
            run(peers["torch"], "input_peer.py", job | evaluation)
            ours = [ResizeCenterCrop(short, SIZE)(pathlib.Path(file).read_bytes()) for file in files]
            far = float(np.abs(np.stack(ours).astype(int) - np.load(out)).mean())
            found[f"evaluation, resize {short}, from torchvision's"] = far
    return found


def table(report: dict) -> str:
    """Return the report as Markdown."""
    lines = [
        "| pipeline | form | transform | worker processes | images per CPU second | by rounds | per second passed |",
        "|---|---|---|---:|---:|---|---:|",
    ]
    for row in report["rates"]:
        rates = [each["rate"] for each in row["rounds"]]
        wall = statistics.median(each["wall"] for each in row["rounds"])
        head = f"| {row['pipeline']} | {row['form']} | {row['transform']} | {row['workers']} "
        lines.append(f"{head}| {row['median']:,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {wall:,.0f} |")
    lines += ["", "| ratio, one process on one core, of the same round | median |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in report["ratios"].items()]
    lines += ["", "| mean distance, in 1/255 | |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in report["quality"].items()]
    lines += ["", f"What a host needs, where an H200 takes {DEMAND:,} images/s:", ""]
    lines += ["| form | bytes an image | cores for 1, 4, 8 H200 | GB/s for 1, 4, 8 H200 |", "|---|---:|---:|---:|"]
    for name, need in report["needs"].items():
        cores, disk = (", ".join(str(value) for value in need[key]) for key in ("cores", "gigabytes_a_second"))
        lines.append(f"| {name} | {need['bytes']:,} | {cores} | {disk} |")
    lines += [
        "",
        f"{report['date']}, {report['machine']}; load while measuring {report['load']}; {report['versions']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=pathlib.Path, default=SAMPLES)
    parser.add_argument("--peer-python", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--out", type=pathlib.Path, default=None)
    values = parser.parse_args()
    files = sorted(str(file) for file in values.path.rglob("*") if file.suffix.lower() in EXTENSIONS[:2])
    if not files:
        sys.exit(f"There are no JPEGs in {values.path}: name a folder of them by --path.")
    peers = peers_of(values.peer_python)
    cores = sorted(os.sched_getaffinity(0))
    common = {"task": "rate", "size": SIZE, "resize": RESIZE, "batch": BATCH, "warm_up": 4, "seconds": values.seconds}

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        split = Files(np.array([os.fsencode(file) for file in files]), np.zeros(len(files), np.int32), b"/")
        data = Dataset(split, split, ("images",), (0.5,) * 3, (0.5,) * 3)
        indices = {name: pack(data, folder / name, form) for name, form in FORMS.items()}
        jobs = {}
        for transform in ("train", "evaluate"):
            for form in FORMS:
                for workers in (0, 1, 2) if transform == "train" and len(cores) > 1 else (0, 1):
                    job = {"path": str(folder / form), "transform": transform, "workers": workers}
                    job["cores"] = cores[: max(1, workers)]
                    jobs["resnet_jax", form, transform, workers] = (sys.executable, "input.py", common | job)
            for peer, python in peers.items():
                for title, normalize in PEERS[peer].items():
                    job = {"peer": peer, "files": files, "transform": transform, "normalize": normalize}
                    job["cores"] = cores[:1]
                    jobs[title, "kept", transform, 0] = (python, "input_peer.py", common | job)
        rates = rounds_of(jobs, values.rounds)
        load = os.getloadavg()[1]
        far = quality(files, peers, folder)

    keys = ("pipeline", "form", "transform", "workers")
    needs = {}
    for form, index in indices.items():
        parts = index["splits"]["train"]
        size = round(sum(shard["bytes"] for shard in parts["shards"]) / parts["examples"])
        speed = statistics.median(each["rate"] for each in rates["resnet_jax", form, "train", 1])
        needs[form] = {
            "bytes": size,
            "cores": [math.ceil(DEMAND * devices / speed) for devices in (1, 4, 8)],
            "gigabytes_a_second": [round(DEMAND * devices * size / 1e9, 2) for devices in (1, 4, 8)],
        }
    ratios = {
        f"{form}, {transform}: resnet_jax over {title}": statistics.median(
            ours["rate"] / theirs["rate"]
            for ours, theirs in zip(
                rates["resnet_jax", form, transform, 0], rates[title, "kept", transform, 0], strict=True
            )
        )
        for transform in ("train", "evaluate")
        for form in FORMS
        for peer in peers
        for title in PEERS[peer]
    }
    names = ("simplejpeg", "opencv-python-headless", "pillow", "numpy", "grain", "array_record")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    for peer, python in peers.items():
        show = f"import importlib.metadata as m; print('{peer}', m.version('{peer.replace('flow', 'flow-cpu')}'))"
        versions.append(subprocess.run([python, "-c", show], capture_output=True, text=True).stdout.strip() or peer)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, shared with other work",
        "load": round(load, 1),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "images": len(files),
        "rates": [
            dict(zip(keys, key, strict=True))
            | {"median": statistics.median(each["rate"] for each in found), "rounds": found}
            for key, found in rates.items()
        ],
        "ratios": ratios,
        "quality": far,
        "needs": needs,
    }
    print(table(report))
    if values.out:
        values.out.mkdir(parents=True, exist_ok=True)
        (values.out / "table.md").write_text(table(report))
        (values.out / "input.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        print(json.dumps(own_rate(json.loads(pathlib.Path(sys.argv[1]).read_text()))))
    else:
        main()
