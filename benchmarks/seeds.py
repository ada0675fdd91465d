"""Whether seeds of one network train faster together, by vmap over their states, than one after the other.

    python benchmarks/seeds.py --out=results/seeds/cpu.json [--network=cifar_resnet20] [--seeds=3] [--batch=64]
        [--size=8]

A step of every seed is taken by one program that maps over the seeds, and by one program a seed in turn: by the
reference implementation and as `main.py` runs them. Images a second over all seeds, medians of rounds.
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import in_turn, medians, write  # noqa: E402
from resnet_jax import create_model  # noqa: E402
from resnet_jax.training.optimizers import create_optimizer  # noqa: E402
from resnet_jax.training.state import create_state  # noqa: E402
from resnet_jax.training.steps import train_step  # noqa: E402


class Steps:
    """A step of all seeds, each with its own variables and batch, mapped or one after the other."""

    def __init__(self, network: str, seeds: int, batch: int, size: int, implementation: str, mapped: bool):
        model = create_model(network, implementation=implementation)
        optimizer = create_optimizer("sgd", lambda step: 0.01, momentum=0.9, weight_decay=1e-4, weight_decay_mask="all")
        rng = np.random.default_rng(0)
        batches = [
            {
                "image": rng.standard_normal((batch, size, size, 3)).astype(np.float32),
                "label": rng.integers(0, model.num_classes, batch).astype(np.int32),
                "position": np.arange(batch, dtype=np.uint32),
            }
            for _ in range(seeds)
        ]
        states = [create_state(model, optimizer, jax.random.key(seed), (size, size, 3)) for seed in range(seeds)]

        def augment(key, images, labels, positions):
            return images, jax.nn.one_hot(labels, model.num_classes)

        step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment)
        key = jax.random.key(0)
        if mapped:
            stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
            self.states, self.batches = [stack(*states)], [stack(*batches)]
            step = jax.vmap(step, in_axes=(0, 0, None))
        else:
            self.states, self.batches = states, batches
        program = jax.jit(step, donate_argnums=0).lower(self.states[0], self.batches[0], key).compile()
        self.step = lambda state, batch: program(state, batch, key)

    def __call__(self):
        """Take the step, and return the losses."""
        results = [self.step(state, batch) for state, batch in zip(self.states, self.batches, strict=True)]
        self.states = [state for state, _ in results]
        return [means["loss"] for _, means in results]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path)
    values = parser.parse_args()
    make = functools.partial(Steps, values.network, values.seeds, values.batch, values.size)
    contestants = {
        "together, reference": make("reference", True),
        "in turn, reference": make("reference", False),
        "in turn, as main.py": make("fast", False),
    }
    seconds = medians(in_turn(contestants, values.rounds))
    speeds = {name: values.seeds * values.batch / each for name, each in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:22} {speed:8.0f} images a second")
    settings = {name: getattr(values, name) for name in ("network", "seeds", "batch", "size", "rounds")}
    write(values.out, {**settings, "images_per_second": speeds})


if __name__ == "__main__":
    main()
