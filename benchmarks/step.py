"""Time train and inference steps against torch and the Flax ImageNet example's network, taking turns.

    python benchmarks/step.py --peer-python=PATH --out=results/step/cpu.json
        [--networks=resnet18:8:224,cifar_resnet20:128:32] [--mode=train|inference] [--dtype=float32] [--rounds=5]
        [--contestants=ours,reference] [--steps=1] [--flax=MODELS.PY] [--peak-tflops=T] [--peak-gbytes=B] [--compile]
        [--kernels=20]

A network is NAME:BATCH:SIZE; the same name with other batches makes a sweep. Contestants: "ours", as `main.py` runs
it; another implementation of `resnet_jax.ops`, such as "reference" (but not with convolutions in groups on a CPU, whose
gradients take XLA tens of seconds) or "fast_covariance", BatchNorm's statistics computed as on a TPU; "flax", the
ResNet of the Flax example, if its models.py is named; "torch" by the Python of an environment that has torch,
torchvision and timm (channels-last; `--compile` compiles it). Each takes `--steps` steps a turn. The table gives images
a second and ratios to torch, from medians, seconds to the first step (torch's compiler is at work meanwhile), the bytes
that a program holds and those that pass through memory (`programs.memory_bytes`), the memory peak where the device
tells it, and shares of the peaks if they are given: two FLOPs for each multiply-add of the network, and three times as
many in training. `--kernels` adds the kernels of a GPU on which a step of ours spends most of its time. The record is
written after each network.
"""

import argparse
import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import flax_peer, programs  # noqa: E402
from benchmarks.measuring import in_turn, write  # noqa: E402
from resnet_jax import create_model  # noqa: E402
from resnet_jax.models.initialization import initialize  # noqa: E402
from resnet_jax.models.summary import costs  # noqa: E402
from resnet_jax.training.losses import cross_entropy  # noqa: E402
from resnet_jax.training.optimizers import create_optimizer  # noqa: E402
from resnet_jax.training.state import create_state  # noqa: E402
from resnet_jax.training.steps import train_step  # noqa: E402

NETWORKS = "resnet18:8:224,resnet50:8:224,resnext50_32x4d:8:224,cifar_resnet20:128:32"


class Contestant:
    """A network of ours, or of the Flax example, that takes steps on one batch that lies on the device."""

    def __init__(self, model, batch: int, size: int, train: bool, steps: int):
        images = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
        labels = jnp.arange(batch) % 10
        begun = time.perf_counter()
        if train:
            self._train(model, images, labels)
        else:
            variables = initialize(model, jax.random.key(0), (size, size, 3))
            run = jax.jit(functools.partial(model.apply, train=False)).lower(variables, images).compile()
            self.program, self.once = run, lambda: run(variables, images)
        jax.block_until_ready(self.once())
        self.first_step = time.perf_counter() - begun
        self.steps = steps

    def _train(self, model, images, labels):
        optimizer = create_optimizer("sgd", lambda step: 0.01, momentum=0.9, weight_decay=1e-4, weight_decay_mask="all")
        self.state = create_state(model, optimizer, jax.random.key(0), images.shape[1:])
        batch = {"image": images, "label": labels, "position": jnp.arange(len(images), dtype=jnp.uint32)}

        def augment(key, images, labels, positions):
            return images, jax.nn.one_hot(labels, model.num_classes)

        step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment, loss=cross_entropy)
        compiled = jax.jit(step, donate_argnums=0).lower(self.state, batch, jax.random.key(2)).compile()
        self.program = compiled

        def once():
            self.state, means = compiled(self.state, batch, jax.random.key(2))
            return means

        self.once = once

    def __call__(self):
        """Take the steps of a turn."""
        for _ in range(self.steps):
            result = self.once()
        return result


class Torch:
    """A process of `torch_peer.py`."""

    def __init__(
        self, python: str, name: str, batch: int, size: int, train: bool, dtype: str, compiled: bool, steps: int
    ):
        command = [python, ROOT / "benchmarks" / "torch_peer.py", name, str(batch), str(size), f"--dtype={dtype}"]
        command += ["--train"] * train + ["--compile"] * compiled
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.steps = steps

    def wait(self):
        """Return how many seconds its first step took, when it is ready."""
        said = self.process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise SystemExit("torch cannot run the network: see above.")
        return float(said[1])

    def __call__(self):
        """Take the steps of a turn."""
        print(self.steps, file=self.process.stdin, flush=True)
        return np.float64(self.process.stdout.readline())

    def close(self):
        """End the process."""
        print(file=self.process.stdin, flush=True)
        self.process.wait()


def compare(entry: str, values: argparse.Namespace) -> dict:
    """Return the row of one NAME:BATCH:SIZE."""
    name, batch, size = entry.split(":")
    batch, size, train, dtype = int(batch), int(size), values.mode == "train", jnp.dtype(values.dtype)
    model = create_model(name, dtype=dtype)
    make = functools.partial(Contestant, batch=batch, size=size, train=train, steps=values.steps)
    if values.peer_python:
        torch = Torch(values.peer_python, name, batch, size, train, values.dtype, values.compile, values.steps)
    contestants = {"ours": make(model)}
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    grouped_on_cpu = getattr(model, "cardinality", 1) > 1 and jax.default_backend() == "cpu"
    for implementation in values.contestants.split(","):
        if implementation not in ("", "ours") and not (implementation == "reference" and grouped_on_cpu):
            contestants[implementation] = make(model.clone(implementation=implementation))
    if values.flax and name in flax_peer.NETWORKS:
        contestants["flax"] = make(flax_peer.network(values.flax, name, dtype))
    first_steps = {contestant: made.first_step for contestant, made in contestants.items()}
    if values.peer_python:
        first_steps["torch"] = torch.wait()
        contestants["torch"] = torch
    times = in_turn(contestants, values.rounds)
    if values.peer_python:
        contestants.pop("torch").close()
    seconds = {contestant: statistics.median(each) / values.steps for contestant, each in times.items()}
    row = {
        "network": name,
        "batch": batch,
        "image": size,
        "images_per_second": {contestant: batch / each for contestant, each in seconds.items()},
        "seconds_a_turn": times,
        "seconds_to_first_step": first_steps,
        "memory_peak_bytes": memory,
    }
    if "torch" in seconds:
        row["ratio_to_torch"] = {contestant: seconds["torch"] / each for contestant, each in seconds.items()}
    program = contestants["ours"].program
    moved, held = sum(programs.memory_bytes(program.as_text()).values()), program.memory_analysis()
    row["memory_bytes_an_image"] = moved / batch
    row["program_memory_bytes"] = held.temp_size_in_bytes + held.argument_size_in_bytes
    if values.peak_tflops:
        work = 2 * costs(model, (size, size, 3)).macs * (3 if train else 1)
        row["share_of_peak_flops"] = work * batch / seconds["ours"] / values.peak_tflops / 1e12
    if values.peak_gbytes:
        row["share_of_peak_bandwidth"] = moved / seconds["ours"] / values.peak_gbytes / 1e9
    if values.kernels:
        row["kernels"] = kernels(contestants["ours"], values.steps, values.kernels)
    return row


def kernels(contestant: Contestant, steps: int, most: int) -> list[dict]:
    """Return the kernels that a GPU spends most of a step on, with their microseconds and launches in a step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(contestant())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        found = {}
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    launches, total = found.get(event.name, (0, 0.0))
                    found[event.name] = (launches + 1, total + event.duration_ns / 1000)
    longest = sorted(found.items(), key=lambda item: -item[1][1])[:most]
    return [
        {"kernel": name, "launches": launches / steps, "microseconds": total / steps}
        for name, (launches, total) in longest
    ]


def main() -> None:
    """Compare all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="of an environment with torch, torchvision and timm")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--mode", default="train", choices=("train", "inference"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--contestants", default="ours,xla")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="a turn")
    parser.add_argument("--flax", help="models.py of the Flax ImageNet example")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this dtype")
    parser.add_argument("--peak-gbytes", type=float, help="a second, of the device's memory")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--kernels", type=int, default=0, help="most kernels to name, on a GPU")
    values = parser.parse_args()
    rows = []
    for entry in values.networks.split(","):
        rows.append(compare(entry, values))
        speeds = "  ".join(f"{who} {speed:.2f}" for who, speed in rows[-1]["images_per_second"].items())
        ratios = "  ".join(f"{who} {ratio:.2f}" for who, ratio in rows[-1].get("ratio_to_torch", {}).items())
        print(f"{entry:28} images/s: {speeds}   to torch: {ratios}", flush=True)
        jax.clear_caches()
        write(values.out, {"mode": values.mode, "dtype": values.dtype, "compiled_torch": values.compile, "rows": rows})


if __name__ == "__main__":
    main()
