"""Losses: one number an example, from logits and target probabilities."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Logits = Float[Array, "batch classes"]
PerExample = Float[Array, " batch"]


def cross_entropy(logits: Logits, targets: Logits) -> PerExample:
    """Return -sum_c t_c log softmax(z)_c."""
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(logits: Logits, targets: Logits) -> PerExample:
    """Return the binary cross-entropy, averaged over classes (Wightman et al. 2021, arXiv:2110.00476, section 2)."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}
