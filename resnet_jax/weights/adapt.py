"""Weights made to fit a network of another head, or of images with another number of channels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.models.resnet import torch_linear
from resnet_jax.weights.names import to_torch

Kernel = Float[np.ndarray, "out in height width"]


def adapted(
    found: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    first: str,
    head: tuple[str, str],
    channels: int,
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """Return arrays whose first kernel reads images of `channels`, and whose head is the network's or a new one.

    Args:
      found: by torchvision's names and in torch's layout.
      shapes: of the network's own arrays by the same names, in Flax's layout.
      first: name of the first kernel.
      head: names of the head's weight and bias.
      channels: of the images.
      key: from which a new head is drawn.
    """
    weight, bias = head
    fitted = dict(found)
    if first in found and found[first].ndim == 4 and found[first].shape[1]:
        fitted[first] = adapt_kernel(found[first], channels)
    if weight not in shapes:
        fitted = {name: array for name, array in fitted.items() if name not in head}
    elif weight not in found or found[weight].shape[:1] != shapes[weight][1:]:
        features, classes = shapes[weight]
        new = new_head(features, classes, key)
        fitted |= {weight: new["weight"], bias: new["bias"]}
    return fitted


def adapt_kernel(kernel: Kernel, channels: int) -> Float[np.ndarray, "out channels height width"]:
    """Return a first kernel for images of `channels`, as timm's `adapt_input_conv` does.

    One channel gets the sum over all, as of an image whose channels are alike. Else the channels are repeated in turn
    and scaled by how many there were over how many there are, so that a constant image keeps the size of its answer.
    """
    had = kernel.shape[1]
    if channels == had:
        return kernel
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    return kernel[:, np.arange(channels) % had] * np.float32(had / channels)


def new_head(features: int, classes: int, key: jax.Array) -> dict[str, Float[np.ndarray, "..."]]:
    """Return weight and bias, in torch's layout, of a head as a new network begins with."""
    kernel = np.asarray(torch_linear(key, (features, classes), jnp.float32))
    return {"weight": to_torch(kernel), "bias": np.zeros(classes, np.float32)}
