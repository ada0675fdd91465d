"""Max-pooling whose gradient has the same bits each time, on every device.

XLA's own gradient of a max-pooling with overlapping windows adds up with atomics on a GPU, in any order that the
threads come, and on a CPU it takes several times as long. On a TPU it is kept: it moves the fewest bytes there.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Maps = Float[Array, "batch height width channels"]
Pooled = Float[Array, "batch rows columns channels"]


class Pooling(NamedTuple):
    """What a max-pooling sees: `window` x `window` pixels, `stride` apart, and `padding` pixels around the maps."""

    window: int
    stride: int
    padding: int


def max_pool(maps: Maps, window: int, stride: int, padding: int, implementation: str = "fast") -> Pooled:
    """Return the largest of each `window` x `window` pixels, `stride` apart, as torch.nn.MaxPool2d does; NaN stays NaN.

    The gradient goes to the first of equal ones, row by row. In the fast implementation it is a sum of `window`**2
    padded arrays, in a fixed order.
    """
    if implementation == "reference":
        return _largest(maps, window, stride, padding)
    return _fast(maps, window, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _fast(maps, window, stride, padding):
    return _largest(maps, window, stride, padding)


def _largest(maps, window, stride, padding):
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(maps, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), sides)


def _forward(maps, window, stride, padding):
    return _largest(maps, window, stride, padding), maps


def _gradient(window, stride, padding, maps, gradient):
    def by_xla(maps, gradient):
        """One pass over memory on a TPU, where it is as good as any: nothing is added up in another order there."""
        return jax.vjp(lambda maps: _largest(maps, window, stride, padding), maps)[1](gradient)[0]

    def in_order(maps, gradient):
        return _sum_of_parts(maps, gradient, window, stride, padding)

    return (lax.platform_dependent(maps, gradient, tpu=by_xla, default=in_order),)


def _sum_of_parts(maps, gradient, window, stride, padding):
    """Add up what each place in a window gets, one place after the other."""
    height, width = maps.shape[1:3]
    lowest = jnp.asarray(-jnp.inf, maps.dtype)
    padded = jnp.pad(maps, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=lowest)
    rows, columns = gradient.shape[1:3]
    best = winner = jnp.zeros(0)
    for place in range(window**2):
        row, column = divmod(place, window)
        ends = (row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1)
        seen = padded[:, row : ends[0] : stride, column : ends[1] : stride]
        if not place:
            best, winner = seen, jnp.zeros(seen.shape, jnp.uint8)
        else:
            larger = (seen > best) | jnp.isnan(seen)
            best, winner = jnp.where(larger, seen, best), jnp.where(larger, jnp.uint8(place), winner)
    # Pixels whose places differ by a multiple of the stride are met by the same places of windows: they are added up
    # apart, without the zeros between the windows, and then interleaved.
    lengths = [-(-size // stride) for size in (height, width)]
    classes = [
        [_shifted_sum(gradient, winner, window, stride, padding, (first, second), lengths) for second in range(stride)]
        for first in range(stride)
    ]
    total = jnp.stack([jnp.stack(each, axis=3) for each in classes], axis=2)
    return total.reshape(maps.shape[0], lengths[0] * stride, lengths[1] * stride, -1)[:, :height, :width]


def _shifted_sum(gradient, winner, window, stride, padding, remainder, lengths):
    """Return what the pixels get whose row and column leave `remainder` when divided by the stride."""
    zero = jnp.zeros((), gradient.dtype)
    total = jnp.zeros((gradient.shape[0], *lengths, gradient.shape[-1]), gradient.dtype)
    for place in range(window**2):
        sides = []
        for part, left, outputs, length in zip(
            divmod(place, window), remainder, gradient.shape[1:3], lengths, strict=True
        ):
            shift, apart = divmod(part - padding - left, stride)
            sides.append((apart, (shift, length - shift - outputs, 0)))
        if not any(apart for apart, _ in sides):
            part = jnp.where(winner == place, gradient, zero)
            total += lax.pad(part, zero, ((0, 0, 0), *(side for _, side in sides), (0, 0, 0)))
    return total


_fast.defvjp(_forward, _gradient)
