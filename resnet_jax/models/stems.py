"""Stems: three 3x3 convolutions in the place of one 7x7, and how every stem of ImageNet's networks ends."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.convolution import Conv
from resnet_jax.models.pooling import Pooling, max_pool

POOLING = Pooling(window=3, stride=2, padding=1)


class DeepStem(nn.Module):
    """3x3 convolutions, the first with stride 2, with BatchNorm and ReLU between them: ResNet-C.

    He et al. 2018 (arXiv:1812.01187), section 4.1, after Inception. What follows the last convolution is the network's,
    as it is after a 7x7.

    Attributes:
      norm: makes a BatchNorm; takes `name`.
      widths: channels of each convolution.
      conv_bias: whether they have biases.
      dtype: of the computation.
    """

    norm: Callable[..., nn.Module]
    widths: tuple[int, ...]
    conv_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in"], train: bool
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Return the feature maps of the last convolution, half as high and wide as `x`, rounded up."""
        for i, width in enumerate(self.widths, start=1):
            if i > 1:
                x = self.norm(name=f"bn{i - 1}")(x, use_running_average=not train, activate=True)
            stride = 2 if i == 1 else 1
            x = Conv(width, 3, stride, bias=self.conv_bias, dtype=self.dtype, name=f"conv{i}")(x)
        return x


def end_stem(
    norm: nn.Module | None, x: Float[Array, "batch height width channels"], train: bool, keep: bool
) -> tuple[Float[Array, "batch height width channels"] | None, Float[Array, "batch rows columns channels"]]:
    """Return the maps of a stem's convolution normalized and activated, or None unless they are to `keep`, and pooled.

    Without a `norm` they are pooled as they are. In training, maps that are not kept are pooled first, which gives the
    same and does not normalize the large ones (`normalization.normalize`).
    """
    if norm is None:
        return x, max_pool(x, *POOLING)
    if train and not keep:
        return None, norm(x, use_running_average=False, activate=True, pooling=POOLING)
    x = norm(x, use_running_average=not train, activate=True)
    return x, max_pool(x, *POOLING)
