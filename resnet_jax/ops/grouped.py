"""Convolutions in groups, and of few channels, by programs that suit a matrix unit better than JAX's own.

Each is a function of (x, kernel, window) with the values of `convolution.reference`.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.ops.convolution import Kernel, Maps, OutMaps, Window, reference


def merged(x: Maps, kernel: Kernel, window: Window, width: int | None = None) -> OutMaps:
    """Convolve in fewer and wider groups, whose kernels are zero except for blocks on the diagonal.

    As many groups are merged as fit into `width` input channels; None merges all into one dense convolution. It
    multiplies more, in shapes that a matrix unit likes.
    """
    count = merged_groups(x.shape[-1], window.groups, width)
    kernel = block_diagonal(kernel, window.groups, window.groups // count)
    return reference(x, kernel, dataclasses.replace(window, groups=count))


dense = merged
merged_128 = functools.partial(merged, width=128)


def shifted(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """Sum, over the kernel's positions, the shifted images times one matrix for each group."""
    rows, columns, inputs, channels = kernel.shape
    pad, count = window.padding(rows), window.groups
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (window.size(pixels, rows) for pixels in x.shape[1:3])
    total = jnp.zeros((x.shape[0], height, width, count, channels // count), x.dtype)
    for row in range(rows):
        for column in range(columns):
            top, left = row * window.dilation, column * window.dilation
            ends = (x.shape[0], top + window.stride * (height - 1) + 1, left + window.stride * (width - 1) + 1)
            seen = lax.slice(padded, (0, top, left, 0), (*ends, x.shape[-1]), (1, window.stride, window.stride, 1))
            seen = seen.reshape(x.shape[0], height, width, count, inputs)
            total += jnp.einsum("nhwgi,igo->nhwgo", seen, kernel[row, column].reshape(inputs, count, -1))
    return total.reshape(x.shape[0], height, width, channels)


def folded(x: Maps, kernel: Kernel, window: Window, align: int = 8) -> OutMaps:
    """Convolve blocks of stride x stride pixels, whose channels are concatenated, with a smaller kernel.

    A 7x7 of stride 2 on 3 channels becomes a 4x4 of stride 1 on 12, which are filled up to a multiple of `align`: a
    matrix unit works with eight channels or more at a time, and multiplies zeros where there are three.

    Raises ValueError for groups or a dilation.
    """
    step, size = window.stride, kernel.shape[0]
    if window.groups > 1 or window.dilation > 1:
        raise ValueError("a convolution in groups or with a dilation cannot be folded")
    pad, channels = window.padding(size), x.shape[-1]
    before = -(-pad // step)  # blocks of padding
    front = before * step - pad  # rows of zeros before the kernel's first, so that it begins with a whole block
    blocks = -(-(front + size) // step)
    sides = (front, blocks * step - front - size)
    kernel = jnp.pad(kernel, (sides, sides, (0, 0), (0, 0))).reshape(blocks, step, blocks, step, channels, -1)

    def borders(pixels):
        seen = window.size(pixels, size) - 1 + blocks  # blocks
        return before * step, (seen - before) * step - pixels, 0

    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *map(borders, x.shape[1:3]), (0, 0, 0)))
    x = x.reshape(x.shape[0], x.shape[1] // step, step, x.shape[2] // step, step, channels)
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


def merged_groups(channels: int, groups: int, width: int | None) -> int:
    """Return how many groups remain when as many as fit into `width` channels are merged; None merges all."""
    if width is None:
        return 1
    each = channels // groups
    return next(count for count in range(1, groups + 1) if groups % count == 0 and count * max(width, each) >= channels)


def block_diagonal(kernel: Kernel, groups: int, merge: int) -> Float[Array, "rows columns merged_in out"]:
    """Return a kernel with one group in place of each `merge` of them, zero where two of them would meet."""
    rows, columns, inputs, channels = kernel.shape
    blocks = kernel.reshape(rows, columns, 1, inputs, groups // merge, merge, channels // groups)
    diagonal = jnp.eye(merge, dtype=kernel.dtype).reshape(1, 1, merge, 1, 1, merge, 1)
    return (blocks * diagonal).reshape(rows, columns, merge * inputs, channels)
