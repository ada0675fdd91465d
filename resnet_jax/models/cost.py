"""What a network costs: its parameters, and the multiply-adds of one image."""

from typing import NamedTuple

import flax.linen as nn

from resnet_jax.models.layers import layers


class Costs(NamedTuple):
    """Attributes:
    params: trained values; running statistics are none.
    macs: multiply-adds of all convolutions and dense layers for one image, as torchvision and papers count.
    """

    params: int
    macs: int


def costs(model: nn.Module, image_shape: tuple[int, int, int]) -> Costs:
    """Return what a network costs for one image of (height, width, channels).

    Both are those of its `layers`, and so of the function that runs.
    """
    found = layers(model, image_shape)
    return Costs(sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found))
