"""Metrics: what is counted over examples, in sums that add up exactly over batches and devices.

The counts are integers and not clu's float32 averages, so that an evaluation of any size is counted to the unit.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@flax.struct.dataclass
class Sums:
    """Sums over examples: add two of them to get those of both sets.

    Attributes:
      loss: float32 sum of per-example losses.
      top1, top5: int32 counts of examples whose label is the first, or among the first five, of the ranked logits.
      examples: int32 count.
    """

    loss: Any
    top1: Any
    top5: Any
    examples: Any

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(lambda one, another: one + another, self, other)

    @classmethod
    def none(cls) -> "Sums":
        """The sums over no example."""
        return cls(np.float32(0), np.int32(0), np.int32(0), np.int32(0))

    def means(self) -> dict[str, float]:
        """Return mean loss and top-1 and top-5 accuracy as fractions, on the host."""
        count = int(self.examples)
        return {name: float(getattr(self, name)) / count for name in ("loss", "top1", "top5")}


def rank(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Int[Array, " batch"]:
    """Return how many classes come before the label: ties go to the lower class, and a NaN is never a hit."""
    target = jnp.take_along_axis(logits, labels[:, None], axis=1)
    index = jnp.arange(logits.shape[1])
    behind = (logits < target) | ((logits == target) & (index >= labels[:, None]))
    return jnp.where(jnp.isnan(target[:, 0]), jnp.iinfo(jnp.int32).max, jnp.sum(~behind, axis=1))


def count(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    losses: Float[Array, " batch"],
    valid: Bool[Array, " batch"],
) -> Sums:
    """Return the sums over the valid examples of a batch."""
    ranks = rank(logits, labels)
    return Sums(
        loss=jnp.sum(jnp.where(valid, losses, 0.0)),
        top1=jnp.sum(valid & (ranks < 1), dtype=jnp.int32),
        top5=jnp.sum(valid & (ranks < 5), dtype=jnp.int32),
        examples=jnp.sum(valid, dtype=jnp.int32),
    )
