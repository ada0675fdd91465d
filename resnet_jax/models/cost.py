"""What a network costs: its parameters, and the multiply-adds of one image."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models.layers import layers


def parameters(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Return the number of trained values; running statistics are none."""
    images = jnp.zeros((1, image_size, image_size, channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def multiply_adds(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Return the multiply-adds of all convolutions and dense layers for one image, as torchvision and papers count."""
    return sum(layer.multiply_adds for layer in layers(model, image_size, channels))
