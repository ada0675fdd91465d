"""Error and loss of a network that a study has changed, over all examples that are given."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.lab.analysis.hooks import Images, Labels
from resnet_jax.training.losses import cross_entropy

BATCH = 256


class Score(NamedTuple):
    """What some examples say of a network.

    Attributes:
      error: share of the examples whose likeliest class is not their label.
      loss: mean cross-entropy.
    """

    error: float
    loss: float


def scorer(
    logits_of: Callable[..., Float[Array, "batch classes"]],
    images: Images,
    labels: Labels,
    batch_size: int = BATCH,
) -> Callable[..., Score]:
    """Return a function of what `logits_of` takes before the images; it is compiled once.

    Every example counts once: the last batch is filled up, and what fills it counts for nothing.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels, np.int32)
    size = min(batch_size, len(labels))

    @jax.jit
    def sums(arguments, images, labels, valid):
        logits = logits_of(*arguments, images)
        losses = cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))
        wrong = jnp.argmax(logits, axis=-1) != labels
        return jnp.sum(wrong & valid), jnp.sum(jnp.where(valid, losses, 0.0))

    batches = []
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        missing = size - len(labels[part])
        rows = np.pad(images[part], ((0, missing), *[(0, 0)] * (images.ndim - 1)))
        valid = np.arange(size) < len(labels[part])
        batches.append(jax.device_put((rows, np.pad(labels[part], (0, missing)), valid)))

    def score(*arguments) -> Score:
        wrong, loss = np.sum([jax.device_get(sums(arguments, *batch)) for batch in batches], axis=0)
        return Score(float(wrong / len(labels)), float(loss / len(labels)))

    return score
