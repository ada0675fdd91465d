"""Measure what a save leaves in memory, and where: in Python's objects, in the C library's blocks, or in its gaps.

    python benchmarks/save_memory.py --out=results/long_run [--saves=400]

The same 61 arrays are saved again and again, as a run saves them. Growth is a line through the second half of the
samples: of the memory that the process holds, of the blocks that the C library has given out and not got back
(mallinfo2), and of Python's. Beside it stands what one call of TensorStore alone leaves, of those that Orbax makes for
each array at each save. `MALLOC_ARENA_MAX=1` in the environment leaves the C library few gaps.
"""

import argparse
import contextlib
import ctypes
import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.long_run import resident_bytes  # noqa: E402
from resnet_jax.run.checkpoints import Checkpoints  # noqa: E402
from resnet_jax.run.hardware import processor  # noqa: E402
from resnet_jax.run.workdir import versions  # noqa: E402

ARRAYS, EVERY, CALLS = 61, 5, 20_000
FIELDS = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class Blocks(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def given_out() -> int:
    """Return the bytes of the blocks that the C library has given out."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Blocks
    blocks = library.mallinfo2()
    return blocks.uordblks + blocks.hblkhd


def sample() -> tuple[int, int, int]:
    """Return the memory held, the C library's blocks, both in bytes, and the number of Python's blocks."""
    gc.collect()
    return resident_bytes(), given_out(), sys.getallocatedblocks()


def growth_a_save(saves: int, folder: pathlib.Path) -> dict[str, float]:
    """Save so many times and return how much each of the three grows with a save."""
    state = {f"a{number}": jnp.full((16, 16), float(number)) for number in range(ARRAYS)}
    steps, samples = [], []
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        for step in range(1, saves + 1):
            checkpoints.save(step, state, {"top1": 0.5})
            checkpoints.wait()
            if step % EVERY == 0:
                steps.append(step)
                samples.append(sample())
    half = len(steps) // 2
    held, blocks, objects = np.polyfit(steps[half:], np.array(samples[half:], float), 1)[0]
    return {
        "kilobytes_held": round(held / 1024, 1),
        "kilobytes_of_the_c_library": round(blocks / 1024, 1),
        "python_blocks": round(objects, 1),
    }


def bytes_a_call() -> float:
    """Return what a call of TensorStore leaves that turns the place of an array into JSON."""
    before = resident_bytes()
    for _ in range(CALLS):
        tensorstore.KvStore.Spec({"driver": "file", "path": "/tmp/"}).to_json()
    gc.collect()
    return round((resident_bytes() - before) / CALLS, 1)


def main() -> None:
    """Measure and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=400)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    values = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    absl.logging.set_verbosity(absl.logging.FATAL)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "saves": values.saves,
            "arrays": ARRAYS,
            "growth_a_save": growth_a_save(values.saves, pathlib.Path(folder)),
        }
    result |= {
        "bytes_left_by_a_call_of_tensorstore_alone": bytes_a_call(),
        "tensorstore": importlib.metadata.version("tensorstore"),
        "malloc_arena_max": os.environ.get("MALLOC_ARENA_MAX"),
        "machine": processor(),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }
    values.out.mkdir(parents=True, exist_ok=True)
    name = "save_memory_one_arena" if result["malloc_arena_max"] == "1" else "save_memory"
    (values.out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
