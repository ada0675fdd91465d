"""Time the start of training: the first variables and the first step, with an empty and a filled cache of programs.

    python benchmarks/startup.py --out=results/startup/cpu.json [--networks=resnet152:2:224,cifar_resnet110:32:32]
    python benchmarks/startup.py --out=results/startup/scan.json --scan [--blocks=4,16]

A network is NAME:BATCH:SIZE; NAME:BATCH:SIZE:K makes it K times as wide. Each is started twice in processes of their
own that share a cache folder, empty at first. Parts are given in seconds of the clock, and in those of the processor,
which other work on the machine does not lengthen. `--scan` compiles, instead, stages of equal bottlenecks, one after
the other and as the body of a `lax.scan`, and takes a step with each.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NETWORKS = (
    "resnet18:2:224,resnet50:2:224,resnet101:2:224,resnet152:2:224,cifar_resnet20:32:32,cifar_resnet56:32:32,"
    "cifar_resnet110:32:32,cifar_resnet20:32:32:2,cifar_resnet20:32:32:4"
)


class Stopwatch:
    """Seconds of parts, one after the other: of the clock, and of the processor, in all threads."""

    def __init__(self):
        self.parts, self._before = {}, (time.perf_counter(), time.process_time())

    def part(self, name: str) -> None:
        """Note what has gone by since the part before."""
        now = (time.perf_counter(), time.process_time())
        self.parts[name] = [after - before for after, before in zip(now, self._before, strict=True)]
        self._before = now


def start(name: str, batch: int, size: int, wider: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each part from nothing to the end of the first step."""
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.run.compilation import keep_programs
    from resnet_jax.training.optimizers import create_optimizer
    from resnet_jax.training.state import create_state
    from resnet_jax.training.steps import train_step

    keep_programs()
    model, optimizer = create_model(name), create_optimizer("sgd", lambda step: 0.1)
    if wider > 1:
        fields = dict(stage_widths=tuple(wider * width for width in model.stage_widths))
        model = model.clone(stem_width=wider * model.stem_width, **fields)
    jax.devices()
    watch = Stopwatch()
    state = jax.block_until_ready(create_state(model, optimizer, jax.random.key(0), (size, size, 3)))
    watch.part("variables")

    def augment(key, images, labels, positions):
        return images, jax.nn.one_hot(labels, model.num_classes)

    step = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer, augment=augment), donate_argnums=0)
    rows = {"label": jnp.zeros(batch, jnp.int32), "position": jnp.zeros(batch, jnp.uint32)}
    rows["image"] = jnp.zeros((batch, size, size, 3))
    traced = step.trace(state, rows, jax.random.key(1))
    watch.part("trace")
    lowered = traced.lower()
    watch.part("lower")
    compiled = lowered.compile()
    watch.part("compile_or_load")
    jax.block_until_ready(compiled(state, rows, jax.random.key(1)))
    watch.part("step")
    return watch.parts


def stage(count: int, scanned: bool) -> dict[str, list[float]]:
    """Return the seconds of the gradient of `count` equal bottlenecks: to compile it, and to take it once compiled."""
    import jax
    import jax.numpy as jnp

    from resnet_jax.models.blocks import Bottleneck

    block = Bottleneck(256)
    x = jnp.ones((2, 14, 14, 1024))
    one = jax.jit(lambda: block.init(jax.random.key(0), x, False))()
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), one)

    def apply(x, variables):
        return block.apply(variables, x, True, mutable=["batch_stats"])

    def loss(params, statistics, x):
        each = {"params": params, "batch_stats": statistics}
        if scanned:
            return jnp.sum(jax.lax.scan(apply, x, each)[0])
        for i in range(count):
            x, _ = apply(x, jax.tree.map(lambda leaf, i=i: leaf[i], each))
        return jnp.sum(x)

    watch = Stopwatch()
    compiled = jax.jit(jax.grad(loss)).lower(many["params"], many["batch_stats"], x).compile()
    watch.part("compile")
    for name in ("first", "step"):
        jax.block_until_ready(compiled(many["params"], many["batch_stats"], x))
        watch.part(name)
    return watch.parts


def shown(parts: dict[str, list[float]]) -> str:
    """Return the seconds of each part, those of the processor in brackets."""
    return "  ".join(f"{part} {clock:.1f} ({processor:.1f}) s" for part, (clock, processor) in parts.items())


def alone(arguments: list[str], cache: str) -> dict[str, list[float]]:
    """Return what this script prints as JSON in a process of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    command = [sys.executable, __file__, *arguments]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Start all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--scan", action="store_true")
    parser.add_argument("--blocks", default="4,16", help="of the stages that --scan compares")
    parser.add_argument("--once", nargs="+", help="what a process does, as JSON: for the script itself")
    values = parser.parse_args()
    if values.once:
        what, *numbers = values.once
        numbers = map(int, numbers)
        print(json.dumps(stage(*numbers) if what == "stage" else start(what, *numbers)))
        return

    from benchmarks.measuring import write

    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for count in values.blocks.split(",") if values.scan else ():
            for scanned in (False, True):
                parts = alone(["--once", "stage", count, str(int(scanned))], cache)
                rows.append({"blocks": int(count), "scanned": scanned, "seconds": parts})
                print(
                    f"{count} bottlenecks {'by scan' if scanned else 'one after the other':20}  {shown(parts)}",
                    flush=True,
                )
    for entry in () if values.scan else values.networks.split(","):
        with tempfile.TemporaryDirectory() as cache:
            for filled in (False, True):
                parts = alone(["--once", *entry.split(":")], cache)
                rows.append({"network": entry, "cache": filled, "seconds": parts})
                print(f"{entry:24} cache {'filled' if filled else 'empty ':6}  {shown(parts)}", flush=True)
    write(values.out, {"of_clock_and_processor": True, "rows": rows})


if __name__ == "__main__":
    main()
