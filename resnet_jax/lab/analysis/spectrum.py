"""Spectrum of the Hessian of the loss, by stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv:1901.10159)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from resnet_jax.lab.analysis.hooks import Images, Labels, Variables, reference
from resnet_jax.training.losses import cross_entropy

BATCH = 256
Vector = Float[Array | np.ndarray, " size"]


class Spectrum(NamedTuple):
    """Nodes and weights of the quadrature of one random vector: the density is the sum of weights at the nodes.

    Attributes:
      values: Ritz values, in rising order; the outermost ones approach the extreme eigenvalues.
      weights: of each, which add up to 1.
    """

    values: Float[np.ndarray, " steps"]
    weights: Float[np.ndarray, " steps"]


def hessian_product(
    model: nn.Module, variables: Variables, images: Images, labels: Labels, batch_size: int = BATCH
) -> tuple[Callable[[Vector], Vector], int]:
    """Return v -> H v for the Hessian H of the mean cross-entropy by all parameters, and the number of parameters.

    BatchNorm uses its running statistics. A vector has the parameters in the order of `ravel_pytree`. The product is
    forward mode over reverse mode, in the reference implementation.
    """
    model = reference(model)
    flat, unravel = ravel_pytree(variables["params"])
    targets = jax.nn.one_hot(labels, model.num_classes)

    def total(flat, images, targets):
        logits: Any = model.apply(variables | {"params": unravel(flat)}, images, train=False)
        return jnp.sum(cross_entropy(logits, targets))

    @jax.jit
    def part(vector, images, targets):
        return jax.jvp(jax.grad(lambda flat: total(flat, images, targets)), (flat,), (vector,))[1]

    def product(vector):
        starts = range(0, len(labels), batch_size)
        parts = (part(vector, images[i : i + batch_size], targets[i : i + batch_size]) for i in starts)
        return sum(parts, jnp.zeros(())) / len(labels)

    return product, flat.size


def lanczos(product: Callable[[Vector], Vector], start: Vector, steps: int) -> Spectrum:
    """Return the quadrature of the symmetric matrix behind `product` for the vector `start`.

    Every new vector is made orthogonal to all before it, twice, so that no eigenvalue is found more than once. It ends
    early where the vectors span a whole invariant space.
    """
    vector = np.asarray(start, np.float64) / np.linalg.norm(start)
    basis, diagonal, beside = [vector], [], []
    for _ in range(steps):
        image = np.asarray(product(basis[-1].astype(np.float32)), np.float64)
        diagonal.append(basis[-1] @ image)
        for _ in range(2):
            image -= np.stack(basis).T @ (np.stack(basis) @ image)
        norm = np.linalg.norm(image)
        if len(diagonal) == steps or norm < 1e-6 * max(1.0, np.abs(diagonal).max()):
            break
        beside.append(norm)
        basis.append(image / norm)
    size = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(beside[: size - 1], 1) + np.diag(beside[: size - 1], -1)
    values, vectors = np.linalg.eigh(tridiagonal)
    return Spectrum(values, vectors[0] ** 2)


def hessian_spectrum(
    model: nn.Module, variables: Variables, images: Images, labels: Labels, steps: int, draws: int, seed: int
) -> list[Spectrum]:
    """Return the quadratures of the Hessian for `draws` random vectors, of `steps` products each."""
    product, size = hessian_product(model, variables, jnp.asarray(images), labels)
    random = np.random.default_rng(seed)
    return [lanczos(product, random.normal(size=size), steps) for _ in range(draws)]


def density(
    spectra: list[dict[str, Any]], at: Float[np.ndarray, " points"], width: float
) -> Float[np.ndarray, " points"]:
    """Return the density of eigenvalues at some points: Gaussians of deviation `width` around the nodes."""
    nodes = [(value, weight) for one in spectra for value, weight in zip(one["values"], one["weights"], strict=True)]
    values, weights = np.array(nodes).T
    bells = np.exp(-0.5 * ((at[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return bells @ weights / len(spectra)
