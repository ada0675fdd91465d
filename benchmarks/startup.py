"""Time the start of training: the first variables and the first step, with an empty and a filled cache of programs.

    python benchmarks/startup.py --out=results/startup/cpu.json [--networks=resnet152:2:224,cifar_resnet110:32:32]

A network is NAME:BATCH:SIZE. Each is started twice in processes of their own that share a cache folder, empty at first.
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


def start(name: str, batch: int, size: int) -> dict[str, float]:
    """Return the seconds from nothing to the first variables, and from there to the end of the first step."""
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.compilation import keep_programs
    from resnet_jax.training.optimizers import create_optimizer
    from resnet_jax.training.state import create_state
    from resnet_jax.training.steps import train_step

    keep_programs()
    model, optimizer = create_model(name), create_optimizer("sgd", lambda step: 0.1)
    begun = time.perf_counter()
    state = jax.block_until_ready(create_state(model, optimizer, jax.random.key(0), (size, size, 3)))
    drawn = time.perf_counter()

    def augment(key, images, labels, positions):
        return images, jax.nn.one_hot(labels, model.num_classes)

    step = jax.jit(functools.partial(train_step, model=model, optimizer=optimizer, augment=augment), donate_argnums=0)
    rows = {"label": jnp.zeros(batch, jnp.int32), "position": jnp.zeros(batch, jnp.uint32)}
    rows["image"] = jnp.zeros((batch, size, size, 3))
    jax.block_until_ready(step(state, rows, jax.random.key(1)))
    return {"variables": drawn - begun, "first_step": time.perf_counter() - drawn}


def main() -> None:
    """Start all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument(
        "--networks", default="resnet50:2:224,resnet152:2:224,cifar_resnet20:32:32,cifar_resnet110:32:32"
    )
    parser.add_argument("--once", nargs=3, metavar=("NAME", "BATCH", "SIZE"), help="one start, as JSON")
    values = parser.parse_args()
    if values.once:
        name, batch, size = values.once
        print(json.dumps(start(name, int(batch), int(size))))
        return

    from benchmarks.measuring import write

    rows = []
    for entry in values.networks.split(","):
        with tempfile.TemporaryDirectory() as cache:
            for filled in (False, True):
                command = [sys.executable, __file__, "--once", *entry.split(":")]
                environment = {**os.environ, "XDG_CACHE_HOME": cache}
                run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                rows.append({"network": entry, "cache": filled, "seconds": json.loads(run.stdout.splitlines()[-1])})
                shown = "  ".join(f"{part} {seconds:.1f} s" for part, seconds in rows[-1]["seconds"].items())
                print(f"{entry:24} cache {'filled' if filled else 'empty ':6}  {shown}", flush=True)
    write(values.out, {"rows": rows})


if __name__ == "__main__":
    main()
