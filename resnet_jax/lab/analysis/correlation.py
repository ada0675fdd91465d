"""Correlation of gradients at nearby inputs (Balduzzi et al. 2017, arXiv:1702.08591, sections 2 and 3).

The paper looks at the gradient as a function of the input on a line: without shortcuts it resembles white noise as the
network gets deeper, with them brown noise. Here the line leads from one image to another.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.hooks import Images, Variables, blocks, tapped

BATCH = 64
IMAGE = "image"

Gradients = Float[np.ndarray, "points values"]


def line(first: Float[np.ndarray, "*shape"], second: Float[np.ndarray, "*shape"], points: int) -> np.ndarray:
    """Return inputs at equal distances from `first` to `second`, both included: shape (points, *shape)."""
    shares = np.linspace(0, 1, points, dtype=np.float32).reshape(-1, *[1] * np.ndim(first))
    return (1 - shares) * first + shares * second


def gradient_function(
    model: nn.Module,
    variables: Variables,
    image: Images,
    at: str = IMAGE,
) -> Callable[[Float[np.ndarray, "points height width channels"], int], Gradients]:
    """Return a function of inputs and a class to the gradients of the class's logit by what is `at` a depth.

    Args:
      model: the network, with its running statistics.
      variables: of it.
      image: any one of the shape of the inputs.
      at: "image", or the name of a block, whose input is meant: the deeper the block, the fewer layers the gradient has
        passed.

    Raises ConfigError where there is no such block.
    """
    shape = image.shape
    if at != IMAGE:
        shapes = {block.name: block.input for block in blocks(model, variables, image)}
        if at not in shapes:
            raise ConfigError(f"this network has no block {at!r}: name {IMAGE}, or one of {', '.join(shapes)}.")
        shape = shapes[at]

    def logit(tap, variables, images, label):
        with tapped({} if at == IMAGE else {at: tap}):
            logits: Any = model.apply(variables, images + tap if at == IMAGE else images, train=False)
        return jnp.sum(logits[:, label])

    program = jax.jit(jax.grad(logit))

    def gradients(inputs, label):
        rows = []
        for start in range(0, len(inputs), BATCH):
            batch = jnp.asarray(inputs[start : start + BATCH])
            zeros = jnp.zeros((len(batch), *shape[1:]))
            rows.append(np.asarray(program(zeros, variables, batch, label)).reshape(len(batch), -1))
        return np.concatenate(rows)

    return gradients


def correlations(gradients: Gradients) -> Float[np.ndarray, "points points"]:
    """Return the correlation of the gradients at each two points: of mean 0, as the paper's definition has it.

    R[i, j] = sum over k of g[i, k] g[j, k] / sqrt(sum of g[i, k]^2 * sum of g[j, k]^2). Where a gradient is 0, it is
    correlated with none. The paper's expectation is over networks; here the values of a gradient stand for it.
    """
    gradients = np.asarray(gradients, np.float64)
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    units = np.divide(gradients, norms, out=np.zeros_like(gradients), where=norms > 0)
    return units @ units.T


def by_lag(matrix: Float[np.ndarray, "points points"]) -> Float[np.ndarray, " points"]:
    """Return the mean correlation of points that are 0, 1, 2, ... steps apart."""
    return np.array([np.mean(np.diagonal(matrix, lag)) for lag in range(len(matrix))])


def white_noise(points: int, values: int, seed: int) -> Gradients:
    """Return gradients that have nothing to do with each other."""
    return np.random.default_rng(seed).normal(size=(points, values))


def brown_noise(points: int, values: int, seed: int) -> Gradients:
    """Return sums of white noise, which walk at random: after s < t steps the correlation is sqrt(s / t)."""
    return np.cumsum(white_noise(points, values, seed), axis=0)
