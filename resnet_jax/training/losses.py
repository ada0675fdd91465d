"""Losses: one number an example, from logits and target probabilities."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from resnet_jax.errors import ConfigError
from resnet_jax.lookup import check_call, is_import, own
from resnet_jax.training.metrics import per_example

Logits = Float[Array, "batch classes"]
PerExample = Float[Array, " batch"]


def cross_entropy(logits: Logits, targets: Logits) -> PerExample:
    """Return -sum_c t_c log softmax(z)_c."""
    return optax.softmax_cross_entropy(logits, targets)


def binary_cross_entropy(logits: Logits, targets: Logits) -> PerExample:
    """Return the binary cross-entropy, averaged over classes (Wightman et al. 2021, arXiv:2110.00476, section 2)."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}


def choose_loss(name: str) -> Callable[[Logits, Logits], PerExample]:
    """Return the loss of `LOSSES` or "module:name", a function of (logits, targets) to one loss for each example.

    Raises ConfigError if there is none; the loss does where it returns anything else.
    """
    loss = own("loss", name, LOSSES)
    if not is_import(name):
        return loss
    check_call("loss", name, loss, ("logits", "targets"))

    def checked(logits, targets):
        values = per_example("loss", name, loss(logits, targets), logits.shape[:1])
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise ConfigError(f"the loss {name!r} returns {values.dtype} and must return floats.")
        return values.astype(jnp.float32)

    return checked
