"""Time a train step of this checkout against that of another one, such as an earlier commit, in turn.

    git worktree add /tmp/before COMMIT
    python benchmarks/against.py --tree=/tmp/before --out=results/step/against.json
        [--networks=resnet18:8:224,cifar_resnet20:128:32] [--dtype=float32] [--rounds=7] [--steps=1]

Each checkout computes in a process of its own, with the same packages. One row a network: images a second of each, from
medians, and their ratio.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import in_turn, write  # noqa: E402

NETWORKS = "resnet18:8:224,resnet50:8:224,resnext50_32x4d:8:224,cifar_resnet20:128:32"
# Both checkouts have these modules; the process prints "ready", and then seconds for each line with a number of steps.
PEER = """
import functools, sys, time
import jax, jax.numpy as jnp
from resnet_jax import create_model
from resnet_jax.training.losses import cross_entropy
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.steps import train_step

name, batch, size, dtype = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = create_model(name, dtype=jnp.dtype(dtype))
images = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
rows = {"image": images, "label": jnp.arange(batch) % 10, "position": jnp.arange(batch, dtype=jnp.uint32)}
optimizer = create_optimizer("sgd", lambda step: 0.01, momentum=0.9, weight_decay=1e-4, MASK="all")
state = create_state(model, optimizer, jax.random.key(0), images.shape[1:])
augment = lambda key, images, labels, positions: (images, jax.nn.one_hot(labels, model.num_classes))
step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment, loss=cross_entropy)
program = jax.jit(step, donate_argnums=0)
state, means = program(state, rows, jax.random.key(2))
jax.block_until_ready(means)
print("ready", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    begun = time.perf_counter()
    for _ in range(int(line)):
        state, means = program(state, rows, jax.random.key(2))
    jax.block_until_ready(means)
    print(time.perf_counter() - begun, flush=True)
"""


class Peer:
    """The process of one checkout."""

    def __init__(self, tree: pathlib.Path, entry: str, dtype: str, steps: int):
        mask = "weight_decay_mask" if "    weight_decay_mask: str" in (tree / OPTIMIZERS).read_text() else "decays"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER.replace("MASK", mask), *entry.split(":"), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
        )
        self.steps = steps

    def wait(self) -> None:
        """Wait until the first step is done."""
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit("a checkout cannot take the step: see above.")

    def __call__(self) -> np.float64:
        """Take the steps of a turn."""
        print(self.steps, file=self.process.stdin, flush=True)
        return np.float64(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        print(file=self.process.stdin, flush=True)
        self.process.wait()


OPTIMIZERS = "resnet_jax/training/optimizers.py"


def main() -> None:
    """Time all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=pathlib.Path, required=True)
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    commit = subprocess.run(["git", "-C", args.tree, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    record = {"against": commit.stdout.strip(), "dtype": args.dtype, "rows": []}
    for entry in args.networks.split(","):
        peers = {
            name: Peer(tree, entry, args.dtype, args.steps) for name, tree in (("ours", ROOT), ("theirs", args.tree))
        }
        for peer in peers.values():
            peer.wait()
        seconds = in_turn(peers, args.rounds)
        for peer in peers.values():
            peer.close()
        batch = int(entry.split(":")[1]) * args.steps
        speeds = {name: batch / statistics.median(each) for name, each in seconds.items()}
        record["rows"].append(
            {"network": entry, "images_per_second": speeds, "ratio": speeds["ours"] / speeds["theirs"]}
        )
        print(json.dumps(record["rows"][-1]), flush=True)
        write(args.out, record)


if __name__ == "__main__":
    main()
