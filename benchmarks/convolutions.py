"""Time every program for the convolutions of ResNeXt-50 and ResNet-50, forward and both gradients.

    python benchmarks/convolutions.py --out=results/convolutions/cpu.json [--batch=4] [--rounds=9] [--dtype=float32]
        [--programs=reference,dense,...] [--limit=2.0] [--calls=1] [--groups]

One row a shape: milliseconds, the median of rounds in which all take turns, and what `choose` takes there. A round
makes `--calls` calls in a row, as many as a GPU needs to hide that it is asked. A program that needs longer than
`--limit` seconds for a call is left out of the rounds. `--groups` leaves dense convolutions out. The table in
`resnet_jax/ops/choice.py` follows this one.
"""

import argparse
import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import in_turn, medians, write  # noqa: E402
from resnet_jax import ops  # noqa: E402
from resnet_jax.ops import onednn  # noqa: E402
from resnet_jax.ops.choice import PROGRAMS, choose  # noqa: E402
from resnet_jax.ops.convolution import DIRECTIONS, Window  # noqa: E402

# (pixels, input channels, channels, kernel size, stride, groups): the stem, ResNeXt-50's 3x3, then ResNet-50's 3x3 and
# 1x1.
SHAPES = [
    (224, 3, 64, 7, 2, 1),
    (56, 128, 128, 3, 1, 32),
    (56, 256, 256, 3, 2, 32),
    (28, 256, 256, 3, 1, 32),
    (28, 512, 512, 3, 2, 32),
    (14, 512, 512, 3, 1, 32),
    (7, 1024, 1024, 3, 1, 32),
    (56, 64, 64, 3, 1, 1),
    (14, 256, 256, 3, 1, 1),
    (14, 256, 1024, 1, 1, 1),
]


def programs(program, window: Window):
    """Return what one of `PROGRAMS` computes by direction, each of (x, kernel, gradient of the output)."""

    def operands(direction, x, kernel, dy):
        if direction == "input_gradient":
            return dy, kernel, window, x.shape[1:3]
        return (x, dy, window, kernel.shape[:2]) if direction == "kernel_gradient" else (x, kernel, window, None)

    return {
        direction: jax.jit(lambda *arrays, direction=direction: program(direction, *operands(direction, *arrays)))
        for direction in DIRECTIONS
    }


def compared(name: str, window: Window, channels: int) -> bool:
    """Return whether a program is another one there than the reference."""
    if name == "folded":
        return window.stride > 1 and channels < 8
    return window.groups > 1 or name in ("reference", "shifted", "onednn")


def several(call, calls: int):
    """Return the result of the last of some calls in a row."""
    for _ in range(calls):
        result = call()
    return result


def quick(call, limit: float) -> bool:
    """Return whether a second call takes less than `limit` seconds."""
    jax.block_until_ready(call())
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun < limit


def main() -> None:
    """Time all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--limit", type=float, default=2.0, help="seconds a call")
    parser.add_argument("--calls", type=int, default=1, help="a round")
    parser.add_argument("--groups", action="store_true", help="only convolutions in groups, and the stem")
    values = parser.parse_args()
    names = [name for name in values.programs.split(",") if name != "onednn" or onednn.missing() is None]
    random, platform, rows = np.random.default_rng(0), jax.default_backend(), []
    for pixels, inputs, channels, size, stride, groups in SHAPES:
        if values.groups and groups == 1 and inputs > 3:
            continue
        window = Window(stride, groups=groups)
        shapes = (values.batch, pixels, pixels, inputs), (size, size, inputs // groups, channels)
        x, kernel = (jnp.asarray(random.normal(size=shape), values.dtype) for shape in shapes)
        dy = jnp.cos(ops.convolve(x, kernel, window))
        for direction in DIRECTIONS:
            calls = {
                name: functools.partial(programs(PROGRAMS[name], window)[direction], x, kernel, dy)
                for name in names
                if compared(name, window, inputs)
            }
            calls = {
                name: functools.partial(several, call, values.calls)
                for name, call in calls.items()
                if quick(call, values.limit)
            }
            seconds = medians(in_turn(calls, values.rounds))
            times = {name: 1000 * time / values.calls for name, time in seconds.items()}
            chosen = choose(platform, direction, inputs, window, x.dtype)
            shape = f"{pixels}x{pixels}x{inputs}->{channels} {size}x{size}/{stride} groups {groups}"
            rows.append({"shape": shape, "direction": direction, "chosen": chosen, "milliseconds": times})
            shown = "  ".join(f"{name}{'*' if name == chosen else ''} {time:.2f}" for name, time in times.items())
            print(f"{shape:40} {direction:16} {shown}", flush=True)
        write(values.out, {"platform": platform, "batch": values.batch, "dtype": values.dtype, "rows": rows})


if __name__ == "__main__":
    main()
