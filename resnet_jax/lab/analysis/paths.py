"""Share of the gradient by path length (Veit et al. 2016, arXiv:1605.06431, section 5, figure 6).

A network of n blocks is a sum of 2^n paths, each of which takes the branch or the shortcut of every block. Those that
take k branches are binomial(n, k), and the gradient that comes through one of them falls with k.
"""

import itertools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.hooks import Images, Labels, Variables, blocks, routed
from resnet_jax.training.losses import cross_entropy


class PathGradients(NamedTuple):
    """Gradients by path length, 0 to n.

    Attributes:
      paths: the number of paths of each length, binomial(n, k), as floats.
      magnitude: mean over paths of the norm of the gradient by the images, of which the mean over examples is taken.
      share: of all gradient: paths times magnitude, which sums to 1.
    """

    paths: Float[np.ndarray, " lengths"]
    magnitude: Float[np.ndarray, " lengths"]
    share: Float[np.ndarray, " lengths"]


def path_gradients(
    model: nn.Module,
    variables: Variables,
    images: Images,
    labels: Labels,
    draws: int,
    seed: int,
) -> PathGradients:
    """Return how much gradient comes through the paths of each length.

    The images pass the whole network, with running statistics; on its way back the gradient of the loss takes the
    branches of k blocks and the shortcuts of all others. `draws` paths of each length are taken at random, or all of
    them where there are no more.

    Raises ConfigError for a network without shortcuts, which has one path.
    """
    names = [block.name for block in blocks(model, variables, images[:1]) if block.residual]
    if not names:
        raise ConfigError("this network has no shortcuts, and so a single path: name a residual one.")
    images, targets = jnp.asarray(images), jax.nn.one_hot(labels, model.num_classes)

    @jax.jit
    def magnitude(chosen):
        def loss(images):
            with routed(dict(zip(names, chosen, strict=True))):
                logits: Any = model.apply(variables, images, train=False)
            return jnp.sum(cross_entropy(logits, targets))

        gradient = jax.grad(loss)(images).reshape(len(images), -1)
        return jnp.mean(jnp.linalg.norm(gradient, axis=1))

    count, random, means = len(names), np.random.default_rng(seed), []
    for length in range(count + 1):
        found = [float(magnitude(_route(path, count))) for path in _paths(count, length, draws, random)]
        means.append(math.fsum(found) / len(found))
    paths, means = np.array([float(math.comb(count, k)) for k in range(count + 1)]), np.array(means)
    return PathGradients(paths, means, share(means))


def share(magnitude: Float[np.ndarray, " lengths"]) -> Float[np.ndarray, " lengths"]:
    """Return the share of the gradient by path length, from the gradient of a single path of each length 0 to n."""
    count = len(magnitude) - 1
    total = np.array([math.comb(count, k) for k in range(count + 1)], float) * magnitude
    return total / total.sum() if total.sum() > 0 else total


def _paths(count: int, length: int, draws: int, random: np.random.Generator) -> list[tuple[int, ...]]:
    """Return sets of blocks whose branch is taken: all of a length, or as many as are drawn."""
    if math.comb(count, length) <= draws:
        return list(itertools.combinations(range(count), length))
    return [tuple(random.choice(count, length, replace=False).tolist()) for _ in range(draws)]


def _route(path: tuple[int, ...], count: int) -> Float[np.ndarray, " blocks"]:
    chosen = np.zeros(count, np.float32)
    chosen[list(path)] = 1.0
    return chosen
