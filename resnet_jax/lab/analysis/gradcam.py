"""Grad-CAM: where in an image a network finds a class."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from resnet_jax.lab.analysis.hooks import require


def gradcam(
    model: nn.Module,
    variables: dict[str, Any],
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"],
) -> Float[Array, "batch map_height map_width"]:
    """Return how much each place of the last feature maps speaks for the class `labels` of its image, 0 or more.

    With A the maps of the last stage and y the class's logit (Selvaraju et al. 2017, arXiv:1610.02391, equations 1, 2):

        importance[k] = mean over i, j of dy / dA[i, j, k];  L[i, j] = relu(sum over k of importance[k] A[i, j, k])

    Where the head is linear in the mean of the maps, as it is here, the sum is the class activation map of Zhou et al.
    2016 (arXiv:1512.04150) over the number of places.
    """
    require(model, "features")
    maps: Any = model.apply(variables, images, method="features")
    last = maps[list(maps)[-1]].astype(jnp.float32)
    head = model.bind(variables).head

    def score(last: Float[Array, "batch rows columns channels"]) -> Float[Array, ""]:
        logits = head(jnp.mean(last, axis=(1, 2)))
        return jnp.sum(jnp.take_along_axis(logits, labels[:, None], axis=1))  # each image's logit sees its own maps

    importance = jnp.mean(jax.grad(score)(last), axis=(1, 2), keepdims=True)
    return nn.relu(jnp.sum(importance * last, axis=-1))
