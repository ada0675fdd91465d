"""Feature maps of a network for one image."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet_jax.lab.analysis.hooks import Variables, require


class StageMaps(NamedTuple):
    """Some feature maps of one stage.

    Attributes:
      channels: their places among the channels of the stage.
      maps: their values.
      total: channels that the stage has.
    """

    channels: list[int]
    maps: Float[np.ndarray, "channels height width"]
    total: int


def liveliest_maps(
    model: nn.Module, variables: Variables, image: Float[np.ndarray, "height width channels"], count: int
) -> dict[str, StageMaps]:
    """Return the `count` maps of each stage that differ most from place to place in an image, the liveliest first.

    That is by their standard deviation over the pixels; where maps are equal in it, by channel.
    """
    require(model, "features", "feature_info")
    program = jax.jit(lambda variables, images: model.apply(variables, images, train=False, method="features"))
    features, found = jax.device_get(program(variables, jnp.asarray(image)[None])), {}
    for name, *_ in model.feature_info():
        maps = np.moveaxis(np.asarray(features[name][0], np.float32), -1, 0)
        channels = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:count]
        found[name] = StageMaps([int(channel) for channel in channels], maps[channels], len(maps))
    return found
