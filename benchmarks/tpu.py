"""Compile train steps for TPUs that are not here, and read off what they move, compute, hold and send.

    TPU_SKIP_MDS_QUERY=1 python benchmarks/tpu.py --out=results/tpu/step.json [--networks=resnet50,resnext50_32x4d]
        [--topologies=v5e:2x2] [--chips=N] [--batch=128] [--size=224] [--lowering=auto] [--flax=MODELS.PY]

It needs libtpu (`pip install libtpu`), and minutes a program. The counts are those of the TPU compiler for one chip:
bytes accessed and FLOPs an image, memory, and the collectives of a step with their bytes. `--flax` names the models.py
of the Flax ImageNet example, of which ResNet-50 is then compiled in the same step for comparison.
"""

import argparse
import functools
import json
import math
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import flax_peer  # noqa: E402
from resnet_jax import create_model  # noqa: E402
from resnet_jax.data.augment import Augment  # noqa: E402
from resnet_jax.models import lowerings  # noqa: E402
from resnet_jax.parallel import AXES, ROWS, Devices  # noqa: E402
from resnet_jax.training.optimizers import create_optimizer  # noqa: E402
from resnet_jax.training.state import TrainState  # noqa: E402
from resnet_jax.training.steps import train_step  # noqa: E402

ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "u8": 1, "s8": 1, "pred": 1}
COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def compile_step(model, devices: Devices, batch: int, size: int):
    """Return the compiled train step of `batch` images a chip, as `main.py` would run it, and the seconds it took."""
    optimizer = create_optimizer("sgd", lambda step: 0.1, momentum=0.9, weight_decay=1e-4, decays="all")
    augment = Augment(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), num_classes=1000)

    def first_state():
        variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
        params = variables["params"]
        return TrainState(jnp.int32(0), params, variables["batch_stats"], optimizer.init(params), None)

    def laid(shapes, spec):
        sharding = NamedSharding(devices.mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

    images = batch * devices.count
    rows = {
        "image": jax.ShapeDtypeStruct((1, images, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1, images), jnp.int32),
        "position": jax.ShapeDtypeStruct((1, images), jnp.uint32),
    }
    one_step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment, average=devices.average)
    program = devices.train_program(one_step, lambda data, row: row)
    key = jax.eval_shape(lambda: jax.random.key(0))
    whole = PartitionSpec()
    arguments = (laid(jax.eval_shape(first_state), whole), None, laid(rows, ROWS), laid(key, whole))
    begun = time.perf_counter()
    return program.lower(*arguments).compile(), time.perf_counter() - begun


def measure(compiled, batch: int) -> dict:
    """Return the counts of one chip."""
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    collectives = {}
    for shapes, kind in COLLECTIVE.findall(compiled.as_text()):
        sent = sum(
            ITEM_BYTES[item] * math.prod(int(n) for n in dims.split(",") if n)
            for item, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
            if item in ITEM_BYTES
        )
        count, before = collectives.get(kind, (0, 0))
        collectives[kind] = (count + 1, before + sent)
    return {
        "megabytes_an_image": costs["bytes accessed"] / batch / 1e6,
        "gigaflops_an_image": costs["flops"] / batch / 1e9,
        "memory_gib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
        "collectives": {kind: {"count": n, "megabytes": b / 1e6} for kind, (n, b) in sorted(collectives.items())},
    }


def main() -> None:
    """Compile all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--networks", default="resnet50,resnext50_32x4d")
    parser.add_argument("--topologies", default="v5e:2x2")
    parser.add_argument("--chips", type=int, help="take the first of each topology; default: all")
    parser.add_argument("--batch", type=int, default=128, help="images a chip")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--lowering", default="auto", choices=lowerings.LOWERINGS)
    parser.add_argument("--flax", help="models.py of the Flax ImageNet example")
    values = parser.parse_args()
    models = {name: create_model(name, dtype=jnp.bfloat16) for name in values.networks.split(",") if name}
    if values.flax:
        models["flax example: resnet50"] = flax_peer.resnet50(values.flax, jnp.bfloat16)
    record = {"jax": jax.__version__, "batch": values.batch, "image": values.size, "rows": []}
    for topology in values.topologies.split(","):
        chips = np.asarray(get_topology_desc(topology, platform="tpu").devices)[: values.chips]
        devices = Devices(Mesh(chips.reshape(-1, 1), AXES), None)
        for name, model in models.items():
            with lowerings.use(values.lowering):
                compiled, seconds = compile_step(model, devices, values.batch, values.size)
            row = {"network": name, "topology": topology, "chips": chips.size, "lowering": values.lowering}
            row |= measure(compiled, values.batch) | {"compile_seconds": seconds}
            record["rows"].append(row)
            print(
                f"{name:24} {topology:10} {row['megabytes_an_image']:7.1f} MB  {row['gigaflops_an_image']:6.1f} GFLOP  "
                f"{row['memory_gib']:5.2f} GiB  {row['collectives']}  compiled in {seconds:.0f} s",
                flush=True,
            )
    if values.out:
        values.out.parent.mkdir(parents=True, exist_ok=True)
        values.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
