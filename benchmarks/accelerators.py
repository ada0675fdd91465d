"""Compile train steps for TPUs and GPUs that are not here, and read off what they move, compute, hold and send.

    python benchmarks/accelerators.py --out=results/accelerators/tpu.json [--networks=resnet50,resnext50_32x4d]
        [--topologies=v5e:2x2,v6e:16x16,h200] [--chips=N] [--batch=128] [--size=224] [--implementation=fast]
        [--flax=MODELS.PY]

TPUs need libtpu (`pip install libtpu`), and minutes a program; GPUs the CUDA plugin and its libraries (`pip install
jax-cuda13-plugin[with-cuda]`). For one chip: megabytes an image that pass between it and its memory
(`programs.memory_bytes`), and for TPUs the compiler's own counts of bytes accessed, on the chip too, and of FLOPs;
memory; and the collectives of a step with their bytes. A GPU's convolutions are those that cuDNN would take without
trying any, so that no time can be read off. `--flax` names the models.py of the Flax ImageNet example, of which
ResNet-50 is then compiled in the same step. `--implementation` is the network's field: "fast_maps" takes BatchNorm's
statistics from the maps themselves, and "fast_covariance" as a TPU's step does. The record is written after each
program, and rows that it has are not compiled again.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import pathlib
import sys
import time
from datetime import UTC, datetime

# Neither a TPU nor a GPU is looked for: what is compiled for is given.
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import flax_peer, programs  # noqa: E402
from resnet_jax import create_model, ops  # noqa: E402
from resnet_jax.data.augment import Augment  # noqa: E402
from resnet_jax.training.optimizers import create_optimizer  # noqa: E402
from resnet_jax.training.parallel import AXES, ROWS, Devices, Dispatch  # noqa: E402
from resnet_jax.training.state import TrainState  # noqa: E402
from resnet_jax.training.steps import train_step  # noqa: E402

# Of Hopper's data sheets, as XLA's compiler asks for them: memory in bytes, its bandwidth in bytes a second.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 }}
"""
GPUS = {
    "h100": HOPPER.format(name="NVIDIA H100 80GB HBM3", memory=80 * 2**30, bandwidth=3_350_000_000_000),
    "h200": HOPPER.format(name="NVIDIA H200", memory=141 * 2**30, bandwidth=4_800_000_000_000),
}


def chips(topology: str) -> np.ndarray:
    """Return the devices of a topology of TPUs, such as "v5e:16x16", or the one of `GPUS`."""
    if topology in GPUS:
        described = get_topology_desc(topology, platform="cuda", target_config=GPUS[topology], topology="1x1x1")
    else:
        described = get_topology_desc(topology, platform="tpu")
    return np.asarray(described.devices)


def compile_step(model, devices: Devices, batch: int, size: int):
    """Return the compiled train step of `batch` images a chip, as `main.py` would run it, and the seconds it took."""
    optimizer = create_optimizer("sgd", lambda step: 0.1, momentum=0.9, weight_decay=1e-4, weight_decay_mask="all")
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
    text, memory, costs = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
    counts = {"memory_megabytes_an_image": sum(programs.memory_bytes(text).values()) / batch / 1e6}
    if costs:
        counts["megabytes_accessed_an_image"] = costs["bytes accessed"] / batch / 1e6
        counts["gigaflops_an_image"] = costs["flops"] / batch / 1e9
    held = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30
    return counts | {"memory_gib": held, "collectives": programs.collectives(text)}


def main() -> None:
    """Compile all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--networks", default="resnet50,resnext50_32x4d")
    parser.add_argument("--topologies", default="v5e:2x2")
    parser.add_argument("--chips", type=int, help="take the first of each topology; default: all")
    parser.add_argument("--batch", type=int, default=128, help="images a chip")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--implementation", default="fast", choices=ops.IMPLEMENTATIONS)
    parser.add_argument("--flax", help="models.py of the Flax ImageNet example")
    values = parser.parse_args()
    fields = dict(dtype=jnp.bfloat16, implementation=values.implementation)
    models = {name: create_model(name, **fields) for name in values.networks.split(",") if name}
    if values.flax:
        models["flax example: resnet50"] = flax_peer.network(values.flax, "resnet50", jnp.bfloat16)
    record = {"batch": values.batch, "image": values.size, "rows": []}
    if values.out and values.out.exists():
        record["rows"] = json.loads(values.out.read_text())["rows"]
    keys = ("network", "topology", "chips", "implementation")
    done = [{key: row.get(key) for key in keys} for row in record["rows"]]
    for topology in values.topologies.split(","):
        taken = chips(topology)[: values.chips]
        devices = Devices(Mesh(taken.reshape(-1, 1), AXES), None)
        for name, model in models.items():
            row = dict(zip(keys, (name, topology, taken.size, values.implementation), strict=True))
            if row in done:
                continue
            compiled, seconds = compile_step(model, devices, values.batch, values.size)
            row |= measure(compiled, values.batch) | {"compile_seconds": seconds} | about(topology)
            record["rows"].append(row)
            print(
                f"{name:24} {topology:10} {row['memory_megabytes_an_image']:7.1f} MB an image from and to memory  "
                f"({row.get('megabytes_accessed_an_image', float('nan')):.1f} MB accessed, "
                f"{row.get('gigaflops_an_image', float('nan')):.1f} GFLOP)  "
                f"{row['memory_gib']:5.2f} GiB  {row['collectives']}  compiled in {seconds:.0f} s",
                flush=True,
            )
            if values.out:
                values.out.parent.mkdir(parents=True, exist_ok=True)
                values.out.write_text(json.dumps(record, indent=2) + "\n")


def about(topology: str) -> dict[str, str]:
    """Return the versions that made a row, and the date."""
    compiler = "jax-cuda13-plugin" if topology in GPUS else "libtpu"
    return {
        "jax": jax.__version__,
        compiler: importlib.metadata.version(compiler),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


if __name__ == "__main__":
    main()
