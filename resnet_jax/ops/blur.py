"""The blur before a strided convolution, which keeps it from aliasing."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Maps = Float[Array, "batch height width channels"]


def blur(x: Maps) -> Maps:
    """Average 3x3 pixels with the weights [1, 2, 1] x [1, 2, 1] / 16; those beyond the border are 0.

    Zhang 2019 (arXiv:1904.11486), in the form of libffcv/ffcv-imagenet: the size stays, and the convolution that
    follows strides.
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = 0.25 * x[:, :height] + 0.5 * x[:, 1 : height + 1] + 0.25 * x[:, 2:]
    return 0.25 * x[:, :, :width] + 0.5 * x[:, :, 1 : width + 1] + 0.25 * x[:, :, 2:]
