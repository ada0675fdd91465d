"""ReLU, whose derivative reads the result."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return max(x, 0); NaN stays NaN.

    The derivative, 1 where the result is positive and 0 elsewhere, is read from the result: that is kept anyway for the
    convolution that follows, and `x` is not.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = relu(x)
    return y, jnp.where(y > 0, dx, jnp.zeros_like(y))
