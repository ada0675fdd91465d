"""The blocks of residual networks: the basic and the bottleneck block, their shortcuts, and squeeze-and-excitation."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.convolution import Conv, kaiming_fan_out

Maps = Float[Array, "batch height width channels"]
OutMaps = Float[Array, "batch out_height out_width out_channels"]

SHORTCUTS = ("A", "A_both", "B", "C", "none")


class FrozenBatchNorm(nn.BatchNorm):
    """A BatchNorm that uses its running statistics in training too, and leaves them as they are."""

    def __call__(self, x: Maps, use_running_average: bool | None = None) -> Maps:
        """Return `x` normalized by the running statistics, whatever is asked for."""
        return super().__call__(x, use_running_average=True)


def batch_norm(net: nn.Module) -> Callable[..., nn.Module]:
    """Return what makes a BatchNorm of a network: by its momentum, epsilon, axes and precision, frozen or not."""
    return functools.partial(
        FrozenBatchNorm if net.norm_frozen else nn.BatchNorm,
        momentum=net.norm_momentum,
        epsilon=net.norm_epsilon,
        dtype=net.dtype,
        axis_name=net.norm_axis,
    )


def pad_channels(x: Maps, channels: int, stride: int, both_sides: bool) -> OutMaps:
    """Subsample by `stride` and add zero channels: shortcut A of He et al. 2015 (arXiv:1512.03385, section 3.3).

    fb.resnet.torch puts all zeros after the channels; `both_sides` puts half of them before, as akamaster's networks
    do.
    """
    x = x[:, ::stride, ::stride, :]
    missing = channels - x.shape[-1]
    before = missing // 2 if both_sides else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


def average(x: Maps, stride: int) -> OutMaps:
    """Average squares of `stride` pixels a side; those that the border cuts have the mean of what is left of them."""
    return nn.avg_pool(x, (stride, stride), (stride, stride), "SAME", count_include_pad=False)


def smooth(x: Maps) -> Maps:
    """Average the 2x2 pixels below and right of each, of which those beyond the border are 0, as timm has it."""
    return nn.avg_pool(x, (2, 2), (1, 1), "SAME")


def drop_path(x: Maps, rate: float, key: jax.Array) -> Maps:
    """Zero whole examples with probability `rate` and scale the others up (Huang et al. 2016, arXiv:1603.09382)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that sees the mean of every channel (Hu et al. 2018, arXiv:1709.01507, section 3).

    gates = sigmoid(W2 relu(W1 means + b1) + b2). The hidden layer has `channels / reduction` units, rounded to a
    multiple of 8 and at least 8, as timm rounds them. Both layers are 1x1 convolutions, as in timm's files.
    """

    reduction: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Return `x` with its channels scaled."""
        channels = x.shape[-1]
        hidden = max(8, int(channels / self.reduction + 4) // 8 * 8)
        dense = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype, kernel_init=kaiming_fan_out)
        means = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * nn.sigmoid(dense(channels, name="fc2")(nn.relu(dense(hidden, name="fc1")(means))))


class Block(nn.Module):
    """What both blocks share: the order of convolution, normalization and activation, the shortcut, and the sum.

    Attributes:
      norm: makes a BatchNorm; takes `name` and `scale_init`.
      channels: width of the stage ("planes" in torch); the output has `channels * expansion` channels.
      stride: spatial stride of the block.
      shortcut: one of `SHORTCUTS`; "B" projects where the shape changes, "C" always, "none" leaves the block plain.
      avg_down: a projection that strides averages 2x2 pixels first instead of skipping three of them: ResNet-D
        (He et al. 2018, arXiv:1812.01187, section 4.1). Where the block dilates in place of a stride, the average
        keeps the size.
      preactivation: BN-ReLU-conv instead of conv-BN-ReLU (He et al. 2016, arXiv:1603.05027, figure 4e). A projection
        then reads the activated input and has no BatchNorm of its own.
      zero_init_last: start the scale of the last BatchNorm at 0, so that the block begins as its shortcut
        (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
      se_reduction: squeeze-and-excitation at the end of the residual branch, with `1 / se_reduction` of its channels; 0
        leaves it out.
      drop_path: probability with which the residual branch of an example is dropped in training.
      cardinality, base_width: groups of the 3x3, and channels per group in a stage of width 64 (bottleneck only).
      stride_in_1x1: stride in the first 1x1 (v1) and not in the 3x3 (v1.5) (bottleneck only).
      dilation: of its 3x3 convolutions.
      first_dilation: of the first 3x3; None: as the others. The first block of a stage that dilates where it would
        stride still has the dilation of the stage before, as in torchvision and timm.
      dtype: of the computation.
    """

    norm: Callable[..., nn.Module]
    channels: int
    stride: int = 1
    shortcut: str = "B"
    avg_down: bool = False
    preactivation: bool = False
    zero_init_last: bool = False
    se_reduction: int = 0
    drop_path: float = 0.0
    cardinality: int = 1
    base_width: int = 64
    stride_in_1x1: bool = False
    dilation: int = 1
    first_dilation: int | None = None
    dtype: Any = jnp.float32

    expansion = 1

    def branch(self) -> list[Conv]:
        """The convolutions of the residual branch, first to last."""
        raise NotImplementedError("Block has no convolutions of its own: use BasicBlock or BottleneckBlock")

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> OutMaps:
        """Return shortcut + branch, activated unless under pre-activation. Needs the rng "dropout" to drop paths."""
        branch = self.branch()
        out_channels = self.channels * self.expansion
        dilates = self.first_dilation not in (None, self.dilation)  # where it would stride
        changes = self.stride != 1 or dilates or x.shape[-1] != out_channels
        projects = self.shortcut == "C" or (self.shortcut == "B" and changes)

        y, shortcut = x, x
        for i, conv in enumerate(branch, start=1):
            last = i == len(branch)
            zero = last and self.zero_init_last
            bn = self.norm(name=f"bn{i}", scale_init=nn.initializers.zeros if zero else nn.initializers.ones)
            if self.preactivation:
                y = nn.relu(bn(y, use_running_average=not train))
                if i == 1 and projects:
                    shortcut = y
                y = conv(y)
            else:
                y = bn(conv(y), use_running_average=not train)
                y = y if last else nn.relu(y)

        if self.se_reduction:
            y = SqueezeExcite(self.se_reduction, self.dtype, name="se")(y)
        if train and self.drop_path > 0:
            y = drop_path(y, self.drop_path, self.make_rng("dropout"))
        if projects:
            name, stride = "shortcut", self.stride
            if self.avg_down:
                name, stride = "averaged_shortcut", 1
                shortcut = smooth(shortcut) if dilates else average(shortcut, self.stride)
            shortcut = Conv(out_channels, 1, stride, dtype=self.dtype, name=f"{name}_conv")(shortcut)
            if not self.preactivation:
                shortcut = self.norm(name=f"{name}_bn")(shortcut, use_running_average=not train)
        elif changes and self.shortcut != "none":
            shortcut = pad_channels(shortcut, out_channels, self.stride, both_sides=self.shortcut == "A_both")
        if self.shortcut != "none":
            y = y + shortcut
        return y if self.preactivation else nn.relu(y)


class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2015, figure 5 left)."""

    def branch(self) -> list[Conv]:
        """Both as wide as the stage; the first one strides."""
        first_dilation = self.first_dilation or self.dilation
        return [
            Conv(self.channels, 3, self.stride, dilation=first_dilation, dtype=self.dtype, name="conv1"),
            Conv(self.channels, 3, dilation=self.dilation, dtype=self.dtype, name="conv2"),
        ]


class BottleneckBlock(Block):
    """1x1, 3x3 in `cardinality` groups, 1x1 (He et al. 2015, figure 5 right; Xie et al. 2017, figure 3c)."""

    expansion = 4

    def branch(self) -> list[Conv]:
        """The 3x3 is `floor(channels * base_width / 64) * cardinality` wide, as in the ResNeXt authors' code."""
        width = self.channels * self.base_width // 64 * self.cardinality
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        dilation = self.first_dilation or self.dilation
        return [
            Conv(width, 1, first, dtype=self.dtype, name="conv1"),
            Conv(width, 3, second, self.cardinality, dilation=dilation, dtype=self.dtype, name="conv2"),
            Conv(self.channels * self.expansion, 1, dtype=self.dtype, name="conv3"),
        ]
