"""Compile train steps for TPUs that are not here, and read off what they move, compute, hold and send.

    TPU_SKIP_MDS_QUERY=1 python benchmarks/tpu.py --out=results/tpu/step.json [--networks=resnet50,resnext50_32x4d]
        [--topologies=v5e:2x2,v6e:16x16] [--chips=N] [--batch=128] [--size=224] [--lowering=auto] [--fused=64,128]
        [--flax=MODELS.PY]

It needs libtpu (`pip install libtpu`), and minutes a program. The counts are those of the TPU compiler for one chip:
bytes accessed and FLOPs an image, memory, and the collectives of a step with their bytes. `--flax` names the models.py
of the Flax ImageNet example, of which ResNet-50 is then compiled in the same step for comparison. `--fused` names
widths of stages whose bottlenecks end in the kernels of `fused.py`; what these move is counted by hand, from shapes,
and is part of the bytes.
The record is written after each program, and rows that it has are not compiled again.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import pathlib
import re
import sys
import time
from datetime import UTC, datetime

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import flax_peer  # noqa: E402
from benchmarks.fused import FusedBottleneckBlock  # noqa: E402
from resnet_jax import create_model  # noqa: E402
from resnet_jax.data.augment import Augment  # noqa: E402
from resnet_jax.models import lowerings  # noqa: E402
from resnet_jax.models.resnet import BLOCKS  # noqa: E402
from resnet_jax.parallel import AXES, ROWS, Devices, Dispatch  # noqa: E402
from resnet_jax.training.optimizers import create_optimizer  # noqa: E402
from resnet_jax.training.state import TrainState  # noqa: E402
from resnet_jax.training.steps import train_step  # noqa: E402

ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "u8": 1, "s8": 1, "pred": 1}
COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def compile_step(model, devices: Devices, batch: int, size: int):
    """Return the compiled train step of `batch` images a chip, as `main.py` would run it, and the seconds it took."""
    optimizer = create_optimizer("sgd", lambda step: 0.1, momentum=0.9, weight_decay=1e-4, decays="all")
    augment = Augment(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), num_classes=model.num_classes)

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
    dispatch = Dispatch(laid(rows, ROWS), laid(jax.ShapeDtypeStruct((), jnp.int32), whole))
    arguments = (laid(jax.eval_shape(first_state), whole), None, dispatch, laid(key, whole))
    begun = time.perf_counter()
    return program.lower(*arguments).compile(), time.perf_counter() - begun


def measure(compiled, batch: int) -> dict:
    """Return the counts of one chip."""
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "megabytes_an_image": costs["bytes accessed"] / batch / 1e6,
        "gigaflops_an_image": costs["flops"] / batch / 1e9,
        "memory_gib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
        "collectives": collectives(compiled),
    }


def collectives(compiled) -> dict[str, dict[str, float]]:
    """Return how many collectives of each kind a step has, and the megabytes of the arrays that one device gives."""
    found = {}
    for shapes, kind in COLLECTIVE.findall(compiled.as_text()):
        sent = sum(
            ITEM_BYTES[item] * math.prod(int(n) for n in dims.split(",") if n)
            for item, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
            if item in ITEM_BYTES
        )
        count, before = found.get(kind, (0, 0))
        found[kind] = (count + 1, before + sent)
    return {kind: {"count": count, "megabytes": sent / 1e6} for kind, (count, sent) in sorted(found.items())}


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
    parser.add_argument("--fused", default="", help="widths of stages")
    parser.add_argument("--flax", help="models.py of the Flax ImageNet example")
    values = parser.parse_args()
    if values.fused:
        widths = tuple(map(int, values.fused.split(",")))
        BLOCKS["bottleneck"] = functools.partial(FusedBottleneckBlock, widths=widths)
    models = {name: create_model(name, dtype=jnp.bfloat16) for name in values.networks.split(",") if name}
    if values.flax:
        models["flax example: resnet50"] = flax_peer.network(values.flax, "resnet50", jnp.bfloat16)
    about = {
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    record = {**about, "batch": values.batch, "image": values.size, "rows": []}
    if values.out and values.out.exists():
        record["rows"] = json.loads(values.out.read_text())["rows"]
    keys = ("network", "topology", "chips", "lowering", "fused")
    done = [{key: row[key] for key in keys} for row in record["rows"]]
    for topology in values.topologies.split(","):
        chips = np.asarray(get_topology_desc(topology, platform="tpu").devices)[: values.chips]
        devices = Devices(Mesh(chips.reshape(-1, 1), AXES), None)
        for name, model in models.items():
            row = dict(zip(keys, (name, topology, chips.size, values.lowering, values.fused), strict=True))
            if row in done:
                continue
            with lowerings.use(values.lowering):
                compiled, seconds = compile_step(model, devices, values.batch, values.size)
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
