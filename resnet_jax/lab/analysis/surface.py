"""Filter-normalized loss surface (Li et al. 2018, arXiv:1712.09913, section 4)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from resnet_jax.lab.analysis.scoring import Score

Tree = Any


def filter_direction(params: Tree, key: jax.Array) -> Tree:
    """Return a random direction whose filters have the norms of the network's: d <- d / |d| * |theta| for each.

    A filter is what makes one output: of an array with two axes or more, all values with one index of the last axis.
    Scales and biases, of BatchNorm and others, have no direction: it is 0 there, as in the authors' code.
    """
    flat = flatten_dict(params)
    keys = dict(zip(flat, jax.random.split(key, len(flat)), strict=True))
    return unflatten_dict({path: _filters(jnp.asarray(array), keys[path]) for path, array in flat.items()})


def _filters(array: jax.Array, key: jax.Array) -> jax.Array:
    if array.ndim < 2:
        return jnp.zeros_like(array)
    direction, axes = jax.random.normal(key, array.shape, array.dtype), tuple(range(array.ndim - 1))
    norm, wanted = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (direction, array))
    return direction / norm * wanted


def moved(params: Tree, directions: Sequence[Tree], shares: Sequence[Any]) -> Tree:
    """Return params + sum over i of shares[i] * directions[i]."""
    for direction, share in zip(directions, shares, strict=True):
        params = jax.tree.map(lambda x, d, share=share: x + share * d, params, direction)
    return params


def loss_surface(
    score: Callable[..., Score],
    steps: Float[np.ndarray, " points"],
    dimensions: int,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return loss and error on a grid: shape (points,) for one dimension, (points, points) for two.

    Args:
      score: of the shares of the directions, an argument each.
      steps: those shares; the first direction is the first axis.
      dimensions: 1 or 2.
    """
    places = np.ndindex(*[len(steps)] * dimensions)
    found = [score(*(np.float32(steps[i]) for i in place)) for place in places]
    loss, error = (np.array([getattr(one, name) for one in found]) for name in ("loss", "error"))
    shape = [len(steps)] * dimensions
    return loss.reshape(shape), error.reshape(shape)
