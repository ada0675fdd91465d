"""Stems: one 3x3 convolution for small images, and a 7x7 or three 3x3 with a max-pooling for ImageNet's."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.models.layers import BatchNorm, Conv, Images, Maps

POOLING = ops.Pooling(window=3, stride=2, padding=1)
STRIDES = {"imagenet": 4, "deep": 4, "cifar": 1}  # with the max-pool


class DeepStem(nn.Module):
    """3x3 convolutions, the first with stride 2, with BatchNorm and ReLU between them: ResNet-C.

    He et al. 2018 (arXiv:1812.01187), section 4.1, after Inception. What follows the last convolution is the network's,
    as it is after a 7x7.

    Attributes:
      widths: channels of each convolution.
      conv, norm: make the layers.
    """

    widths: tuple[int, ...]
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "batch out_height out_width out_channels"]:
        """Return the feature maps of the last convolution, half as high and wide as `x`, rounded up."""
        for i, width in enumerate(self.widths, start=1):
            if i > 1:
                x = self.norm(name=f"bn{i - 1}")(x, not train, activate=True)
            x = self.conv(width, 3, stride=2 if i == 1 else 1, name=f"conv{i}")(x)
        return x


def norm_and_pool(
    norm: Any, x: Maps, train: bool, keep: bool, implementation: str
) -> tuple[Maps | None, Float[Array, "batch rows columns channels"]]:
    """Return a stem's maps after BatchNorm and ReLU, or None unless they are to `keep`, and after the max-pooling.

    Without a `norm` they are pooled as they are. In training, maps that are not kept are pooled inside the BatchNorm,
    which gives the same and does not normalize the large ones (`ops.batch_norm`).
    """
    if norm is None:
        return x, ops.max_pool(x, *POOLING, implementation=implementation)
    if train and not keep:
        return None, norm(x, False, activate=True, pooling=POOLING)
    x = norm(x, not train, activate=True)
    return x, ops.max_pool(x, *POOLING, implementation=implementation)
