"""Lowerings of one function, the convolution in groups: equal values and gradients by different programs.

XLA's own is the obstacle to ResNeXt: its gradient takes 40 times as long as an equal sum of matrix products on CPU,
and narrow groups leave a matrix unit idle. Each lowering may serve the forward pass and either gradient; `choose` says
which one does, by where the program runs and by shape, as `benchmarks/convolutions.py` measured.
"""

import contextlib
import contextvars
import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax import onednn

Maps = Float[Array, "batch height width in"]
OutMaps = Float[Array, "batch out_height out_width out"]
Kernel = Float[Array, "rows columns group_in out"]


@dataclasses.dataclass(frozen=True)
class Window:
    """What a convolution does besides multiplying: the step of its output, the gaps of its kernel, and its groups."""

    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def padding(self, kernel_size: int) -> int:
        """Return the zeros on each of the four sides."""
        return self.dilation * (kernel_size - 1) // 2

    def size(self, pixels: int, kernel_size: int) -> int:
        """Return how many outputs a side of so many pixels has."""
        reach = self.dilation * (kernel_size - 1) + 1
        return (pixels + 2 * self.padding(kernel_size) - reach) // self.stride + 1


def xla(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """The convolution as XLA has it."""
    pad = window.padding(kernel.shape[0])
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(window.stride, window.stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def merged(x: Maps, kernel: Kernel, window: Window, width: int | None = None) -> OutMaps:
    """XLA's convolution with fewer and wider groups, whose kernels are zero but for blocks on the diagonal.

    `width` input channels or fewer make one group; None makes one of all. It multiplies more, in shapes that a matrix
    unit likes.
    """
    count = merged_groups(x.shape[-1], window.groups, width)
    return xla(
        x, block_diagonal(kernel, window.groups, window.groups // count), dataclasses.replace(window, groups=count)
    )


def shifted(x: Maps, kernel: Kernel, window: Window, width: int | None = None) -> OutMaps:
    """The sum over the kernel's positions of the shifted image times a matrix a group, groups merged as in `merged`."""
    count = merged_groups(x.shape[-1], window.groups, width)
    kernel = block_diagonal(kernel, window.groups, window.groups // count)
    rows, columns, inputs, channels = kernel.shape
    pad = window.padding(rows)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (window.size(pixels, rows) for pixels in x.shape[1:3])
    total = jnp.zeros((len(x), height, width, count, channels // count), x.dtype)
    for row in range(rows):
        for column in range(columns):
            top, left = row * window.dilation, column * window.dilation
            ends = (len(x), top + window.stride * (height - 1) + 1, left + window.stride * (width - 1) + 1, x.shape[-1])
            seen = lax.slice(padded, (0, top, left, 0), ends, (1, window.stride, window.stride, 1))
            seen = seen.reshape(len(x), height, width, count, inputs)
            total += jnp.einsum("nhwgi,igo->nhwgo", seen, kernel[row, column].reshape(inputs, count, -1))
    return total.reshape(len(x), height, width, channels)


def folded(x: Maps, kernel: Kernel, window: Window, align: int = 8) -> OutMaps:
    """XLA's convolution of blocks of stride x stride pixels, whose channels lie side by side, by a smaller kernel.

    A 7x7 of stride 2 on 3 channels becomes a 4x4 of stride 1 on 12, which are filled up to a multiple of `align`: a
    matrix unit works with eight channels or more at a time, and multiplies zeros where there are three. For
    convolutions in groups, or with gaps, it is `xla`.
    """
    step, size = window.stride, kernel.shape[0]
    if step == 1 or window.groups > 1 or window.dilation > 1:
        return xla(x, kernel, window)
    pad, channels = window.padding(size), x.shape[-1]
    before = -(-pad // step)  # blocks of padding
    front = before * step - pad  # rows of zeros that the kernel has before its first, to begin with a block
    blocks = -(-(front + size) // step)
    sides = (front, blocks * step - front - size)
    kernel = jnp.pad(kernel, (sides, sides, (0, 0), (0, 0))).reshape(blocks, step, blocks, step, channels, -1)

    def borders(pixels):
        seen = window.size(pixels, size) - 1 + blocks  # blocks
        return before * step, (seen - before) * step - pixels, 0

    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *map(borders, x.shape[1:3]), (0, 0, 0)))
    x = x.reshape(len(x), x.shape[1] // step, step, x.shape[2] // step, step, channels)
    unfilled = -(step * step * channels) % align
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], -1)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, -1, kernel.shape[-1])
    return lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, unfilled))),
        jnp.pad(kernel, ((0, 0), (0, 0), (0, unfilled), (0, 0))),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_onednn(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """The convolution and its gradients as oneDNN has them, in float32 whatever the type; on CPU only."""
    height, width = (window.size(pixels, kernel.shape[0]) for pixels in x.shape[1:3])
    return _onednn("forward", x, kernel, (len(x), height, width, kernel.shape[3]), kernel.shape[0], window)


def _onednn(direction, a, b, shape, kernel_size, window):
    fields = dict(stride=window.stride, dilation=window.dilation, groups=window.groups)
    given = (a.astype(jnp.float32), b.astype(jnp.float32))
    made = onednn.convolve(direction, *given, shape, padding=window.padding(kernel_size), **fields)
    return made.astype(a.dtype)


def _onednn_forward(x, kernel, window):
    return by_onednn(x, kernel, window), (x, kernel)


def _onednn_gradients(window, arrays, dy):
    x, kernel = arrays
    dx = _onednn("input_gradient", dy, kernel, x.shape, kernel.shape[0], window)
    dkernel = _onednn("kernel_gradient", x, dy, kernel.shape, kernel.shape[0], window)
    return dx, dkernel


by_onednn.defvjp(_onednn_forward, _onednn_gradients)


def merged_groups(channels: int, groups: int, width: int | None) -> int:
    """Return how few groups are left when as many as fit into `width` channels are merged; None merges all."""
    if width is None:
        return 1
    each = channels // groups
    return next(count for count in range(1, groups + 1) if groups % count == 0 and count * max(width, each) >= channels)


def block_diagonal(kernel: Kernel, groups: int, merge: int) -> Float[Array, "rows columns merged_in out"]:
    """Return the kernel that has one group in the place of `merge` of them, with zeros where they do not meet."""
    rows, columns, inputs, channels = kernel.shape
    blocks = kernel.reshape(rows, columns, 1, inputs, groups // merge, merge, channels // groups)
    diagonal = jnp.eye(merge, dtype=kernel.dtype).reshape(1, 1, merge, 1, 1, merge, 1)
    return (blocks * diagonal).reshape(rows, columns, merge * inputs, channels)


def choose(platform: str, direction: str, channels: int, window: Window, dtype: Any = jnp.float32) -> str:
    """Return the name of the lowering for a direction of `onednn.DIRECTIONS`.

    `platform` is "cpu", "tpu" or "gpu"; `channels` those of the input.
    """
    if platform == "cpu" and dtype != jnp.float64 and onednn.missing() is None:
        return "onednn"
    if window.groups == 1:
        return "folded" if platform == "gpu" and window.stride > 1 and channels < 8 else "xla"
    if platform == "tpu":  # bound by memory: of ResNeXt-50's bytes, groups of 128 channels move a sixth more
        return "dense"
    if platform == "gpu":  # an H200, bfloat16: `results/convolutions/h200.json`
        return "dense" if direction == "input_gradient" and window.stride > 1 else "merged128"
    if channels // window.groups < 8:
        return "dense"
    return "xla" if direction == "forward" else "shifted"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def fastest(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """The convolution by what `choose` says for the machine that the program is compiled for, gradients too."""
    return _forward_by_platform(x, kernel, window)


# Programs of their own, so that equal convolutions of a network are traced and lowered once.
@functools.partial(jax.jit, static_argnums=2)
def _forward_by_platform(x, kernel, window):
    return _on_each_platform(lambda lowering: lowering(x, kernel, window), "forward", x, window)


def _on_each_platform(work, direction, x, window):
    """Return `work(lowering)` with the lowering that is chosen for the platform that the program is compiled for."""
    names = {platform: choose(platform, direction, x.shape[-1], window, x.dtype) for platform in ("cpu", "tpu", "gpu")}
    others = {platform: names[platform] for platform in ("cpu", "tpu") if names[platform] != names["gpu"]}
    if not others:
        return work(LOWERINGS[names["gpu"]])
    branches = {platform: functools.partial(work, LOWERINGS[name]) for platform, name in others.items()}
    return lax.platform_dependent(default=functools.partial(work, LOWERINGS[names["gpu"]]), **branches)


def _fastest_forward(x, kernel, window):
    return fastest(x, kernel, window), (x, kernel)


def _fastest_gradients(window, arrays, dy):
    return _gradients_by_platform(*arrays, dy, window)


@functools.partial(jax.jit, static_argnums=3)
def _gradients_by_platform(x, kernel, dy, window):
    def to_x(lowering):
        return jax.vjp(lambda x: lowering(x, kernel, window), x)[1](dy)[0]

    def to_kernel(lowering):
        return jax.vjp(lambda kernel: lowering(x, kernel, window), kernel)[1](dy)[0]

    return (
        _on_each_platform(to_x, "input_gradient", x, window),
        _on_each_platform(to_kernel, "kernel_gradient", x, window),
    )


fastest.defvjp(_fastest_forward, _fastest_gradients)


LOWERINGS = types.MappingProxyType(
    {
        "auto": fastest,
        "xla": xla,
        "merged128": functools.partial(merged, width=128),
        "dense": merged,
        "folded": folded,
        "shifted128": functools.partial(shifted, width=128),
        "shifted": functools.partial(shifted, width=1),
        "onednn": by_onednn,
    }
)
_used = contextvars.ContextVar("lowering", default="auto")


def convolve(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """Return the convolution of images with a kernel, padded by `window.padding` zeros on all four sides."""
    return LOWERINGS[_used.get()](x, kernel, window)


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Let every convolution that is traced inside take one lowering of `LOWERINGS`.

    "xla" is the one with forward-mode derivatives, and whose programs a reader knows.
    """
    before = _used.set(name)
    try:
        yield
    finally:
        _used.reset(before)
