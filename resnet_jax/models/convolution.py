"""Convolution, dense or in groups, padded as torch pads."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.blur import blur
from resnet_jax.models.lowerings import Window, convolve

BLURRED = 16  # input channels from which on a strided convolution is blurred, where it is asked for

# Normal with variance 2 / (kernel height * kernel width * output channels): He et al. 2015 (arXiv:1502.01852), section
# 2.2, in the fan-out form of fb.resnet.torch and torchvision.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same of input channels: torch's kaiming_normal_ as it is, with which torchvision starts DenseNet.
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """A convolution; `groups` is the cardinality of Xie et al. 2017 (arXiv:1611.05431). A bias starts at 0.

    Both sides are padded by `(kernel_size - 1) // 2 * dilation`. `padding="SAME"` would pad (0, 1) where the stride is
    2, and weights of other libraries would then give other logits. A dilated kernel reads every `dilation`-th pixel.
    The kernel has the shape (height, width, in_channels / groups, channels). With `blurs`, what a stride skips is
    averaged first (`blur`), if there are at least `BLURRED` input channels.
    """

    channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    blurs: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = kaiming_fan_out

    def widens(self, channels: int) -> bool:
        """Whether it does nothing but to multiply each pixel's `channels` values and give twice as many or more."""
        alone = self.kernel_size == self.stride == self.groups == 1 and not self.bias
        return alone and self.channels >= 2 * channels

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch out_height out_width channels"]:
        """Return feature maps of `ceil(size / stride)` pixels a side."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.blurs and self.stride > 1 and x.shape[-1] >= BLURRED:
            x = blur(jnp.asarray(x, self.dtype))
        window = Window(self.stride, self.dilation, self.groups)
        y = convolve(jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype), window)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32).astype(self.dtype)
        return y
