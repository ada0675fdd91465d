"""Which program serves a convolution: one table, by platform, direction and shape.

The first row that applies is taken; where none does, JAX's own convolution (`convolution.reference`) is. Each row
names the record that pays for it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from resnet_jax.ops import grouped, onednn
from resnet_jax.ops.convolution import DIRECTIONS, Window, convolution_p, gradient_by, reference

GRADIENTS = DIRECTIONS[1:]


class Case(NamedTuple):
    """One convolution to be compiled: `channels` of its images, its window, and the type of its arrays."""

    channels: int
    window: Window
    dtype: str

    @property
    def group_width(self) -> int:
        """Input channels of a group."""
        return self.channels // self.window.groups


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      platform: "cpu", "tpu" or "gpu" (CUDA and ROCm).
      directions: the directions that it serves.
      applies: whether it serves a case.
      program: name in `PROGRAMS`.
      because: the reason, and the record.
    """

    platform: str
    directions: tuple[str, ...]
    applies: Callable[[Case], bool]
    program: str
    because: str


def in_groups(case: Case) -> bool:
    """Whether it has more than one group."""
    return case.window.groups > 1


TABLE = (
    Row(
        "cpu",
        DIRECTIONS,
        lambda case: case.dtype != "float64" and onednn.missing() is None,
        "onednn",
        "1.1 to 7.8 times as fast as the best other program: results/convolutions/cpu.json",
    ),
    Row(
        "cpu",
        DIRECTIONS,
        lambda case: in_groups(case) and case.group_width < 8,
        "dense",
        "JAX's takes 3 times as long for groups of 4 channels: results/convolutions/cpu.json",
    ),
    Row(
        "cpu",
        GRADIENTS,
        in_groups,
        "shifted",
        "JAX's gradient by the kernel takes up to 150 times as long: results/convolutions/cpu.json",
    ),
    Row(
        "gpu",
        DIRECTIONS,
        lambda case: case.window == Window(stride=case.window.stride) and case.window.stride > 1 and case.channels < 8,
        "folded",
        "about half the time for the stem on an H200: results/convolutions/h200.json",
    ),
    Row(
        "gpu",
        ("input_gradient",),
        lambda case: in_groups(case) and case.window.stride > 1,
        "dense",
        "up to half of cuDNN's time on an H200: results/convolutions/h200.json",
    ),
    Row(
        "gpu", DIRECTIONS, in_groups, "merged_128", "up to 1.4 times as fast on an H200: results/convolutions/h200.json"
    ),
    Row(
        "tpu",
        DIRECTIONS,
        in_groups,
        "dense",
        "a TPU is bound by memory, and groups of 128 channels move a sixth more bytes in ResNeXt-50, counted and not "
        "timed: results/accelerators/tpu.json",
    ),
)

PROGRAMS: dict[str, Callable[..., jax.Array]] = {
    "reference": functools.partial(gradient_by, reference),
    "dense": functools.partial(gradient_by, grouped.dense),
    "merged_128": functools.partial(gradient_by, grouped.merged_128),
    "shifted": functools.partial(gradient_by, grouped.shifted),
    "folded": functools.partial(gradient_by, grouped.folded),
    "onednn": onednn.convolve,
}


def choose(platform: str, direction: str, channels: int, window: Window, dtype: Any = jnp.float32) -> str:
    """Return the name in `PROGRAMS` of what serves one direction of a convolution.

    Args:
      platform: "cpu", "tpu" or "gpu"; "cuda" and "rocm" are "gpu".
      direction: one of `convolution.DIRECTIONS`.
      channels: of the images.
      window: stride, dilation and groups.
      dtype: of the arrays.
    """
    platform = "gpu" if platform in ("cuda", "rocm") else platform
    case = Case(channels, window, jnp.dtype(dtype).name)
    for row in TABLE:
        if row.platform == platform and direction in row.directions and row.applies(case):
            return row.program
    return "reference"


def _lowering(platform: str) -> Callable:
    # A program of its own, so that equal convolutions of a network are traced and lowered once.
    @functools.partial(jax.jit, static_argnames=("direction", "window", "sides"))
    def fastest(a, b, *, direction, window, sides):
        channels = b.shape[2] * window.groups if direction == "input_gradient" else a.shape[-1]
        program = PROGRAMS[choose(platform, direction, channels, window, a.dtype)]
        return program(direction, a, b, window, sides)

    return mlir.lower_fun(fastest, multiple_results=False)


for _platform in ("cpu", "tpu", "cuda", "rocm"):
    mlir.register_lowering(convolution_p, _lowering(_platform), platform=_platform)
