"""Max-pooling whose gradient is the same to the bit each time, on every device.

XLA's own gradient of a max-pooling with overlapping windows adds up with atomics on a GPU, in whatever order the
threads come.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(
    maps: Float[Array, "batch height width channels"], window: int, stride: int, padding: int
) -> Float[Array, "batch rows columns channels"]:
    """Return the largest of each `window` x `window` pixels, `stride` apart, as torch.nn.MaxPool2d has it.

    What is no number stays one. The gradient goes to the first of equal ones, row by row: it is a sum of `window`**2
    padded maps, in a fixed order.
    """
    lowest = jnp.asarray(-jnp.inf, maps.dtype)
    maps = jnp.pad(maps, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=lowest)
    rows, columns = ((size - window) // stride + 1 for size in maps.shape[1:3])
    best = None
    for row in range(window):
        for column in range(window):
            seen = jax.lax.slice(
                maps,
                (0, row, column, 0),
                (maps.shape[0], row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1, maps.shape[3]),
                (1, stride, stride, 1),
            )
            best = seen if best is None else jnp.where((seen > best) | jnp.isnan(seen), seen, best)
    return best
