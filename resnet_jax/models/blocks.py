"""The blocks of residual networks: basic and bottleneck, after addition (v1) and before it (v2)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from resnet_jax import ops
from resnet_jax.models.initialization import ones, zeros
from resnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Maps,
    OutMaps,
    SqueezeExcite,
    check_choices,
    conv_norm,
    drop_path,
)

SHORTCUTS = ("A", "A_both", "B", "C", "none")


class Block(nn.Module):
    """What all blocks share: their fields, the shortcut, and the sum.

    Attributes:
      channels: width of the stage ("planes" in torch); the output is `expansion` times as wide.
      stride: spatial stride of the block.
      shortcut: one of `SHORTCUTS`; "A" pads with zero channels and "B" projects where the shape changes, "C" projects
        always, "none" leaves the block plain.
      conv, norm: make a convolution and a normalization; both take `name`.
      avg_down: a projection that strides averages 2x2 pixels first instead of skipping three of them: ResNet-D
        (He et al. 2018, arXiv:1812.01187, section 4.1). Where the block dilates in place of a stride, the average
        keeps the size.
      projection_norm: a normalization after a projection.
      zero_init_last: start the scale of the last normalization at 0, so that the block begins as its shortcut
        (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
      se_reduction: squeeze-and-excitation at the end of the residual branch, with `1 / se_reduction` of its channels; 0
        leaves it out.
      drop_path: probability with which the residual branch of an example is dropped in training.
      dilation: of the 3x3 convolutions.
      first_dilation: of the first 3x3; None: as the others. The first block of a stage that dilates where it would
        stride still has the dilation of the stage before, as in torchvision and timm.
      dtype: of the computation.
    """

    channels: int
    stride: int = 1
    shortcut: str = "B"
    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    avg_down: bool = False
    projection_norm: bool = True
    zero_init_last: bool = False
    se_reduction: int = 0
    drop_path: float = 0.0
    dilation: int = 1
    first_dilation: int | None = None
    dtype: Any = jnp.float32

    expansion = 1  # output channels, in widths of the stage

    def convs(self) -> list[Any]:
        """Return the convolutions of the residual branch, first to last."""
        raise NotImplementedError("Block has no convolutions: use BasicBlock or Bottleneck")

    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return what the block makes of `x`; in training BatchNorm uses the statistics of the batch."""
        raise NotImplementedError("Block computes nothing: use BasicBlock or Bottleneck")

    def last_norm(self, name: str) -> Any:
        """Return the normalization that ends the residual branch."""
        return self.norm(name=name, scale_init=zeros if self.zero_init_last else ones)

    @property
    def dilates(self) -> bool:
        """Whether it dilates where it would stride."""
        return self.first_dilation not in (None, self.dilation)

    def changes_shape(self, x: Maps) -> bool:
        """Return whether the output has another shape than `x`, or stands for one that would."""
        return self.stride != 1 or self.dilates or x.shape[-1] != self.channels * self.expansion

    def projects(self, x: Maps) -> bool:
        """Return whether the shortcut of `x` is a convolution."""
        check_choices(self, shortcut=SHORTCUTS)
        return self.shortcut == "C" or (self.shortcut == "B" and self.changes_shape(x))

    def regularized(self, y: OutMaps, train: bool) -> OutMaps:
        """Return the branch after squeeze-and-excitation and stochastic depth, where the block has them."""
        if self.se_reduction:
            y = SqueezeExcite(self.se_reduction, self.dtype, name="se")(y)
        return drop_path(y, self.drop_path, self.make_rng("dropout")) if train and self.drop_path > 0 else y

    def shortcut_of(self, x: Maps, train: bool, normalize: bool = True) -> OutMaps:
        """Return the shortcut: `x`, its projection, or `x` subsampled and with zero channels."""
        channels = self.channels * self.expansion
        if self.projects(x):
            name, stride = "shortcut", self.stride
            if self.avg_down:
                name, stride = "averaged_shortcut", 1
                x = smooth(x) if self.dilates else average(x, self.stride)
            conv = self.conv(channels, 1, stride, name=f"{name}_conv")
            if normalize and self.projection_norm:
                return conv_norm(conv, self.norm(name=f"{name}_bn"), x, train)
            return conv(x)
        if self.changes_shape(x):
            return pad_channels(x, channels, self.stride, both_sides=self.shortcut == "A_both")
        return x

    def join(self, branch: OutMaps, shortcut: OutMaps) -> OutMaps:
        """Return the sum; a method, so that a study can intercept it (`resnet_jax.lab.analysis.hooks`)."""
        return branch + shortcut

    def add_shortcut(self, y: OutMaps, x: Maps, train: bool, normalize: bool = True) -> OutMaps:
        """Return `y` plus the shortcut of `x`, or `y` alone in a plain block."""
        return y if self.shortcut == "none" else self.join(y, self.shortcut_of(x, train, normalize))


class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2015, arXiv:1512.03385, figure 5 left)."""

    def convs(self) -> list[Any]:
        """Return two 3x3 convolutions as wide as the stage; the first one strides."""
        return [
            self.conv(self.channels, 3, self.stride, dilation=self.first_dilation or self.dilation, name="conv1"),
            self.conv(self.channels, 3, dilation=self.dilation, name="conv2"),
        ]

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return relu(branch(x) + shortcut(x)). Needs the rng "dropout" for stochastic depth."""
        conv1, conv2 = self.convs()
        y = self.norm(name="bn1")(conv1(x), not train, activate=True)
        y = self.last_norm("bn2")(conv2(y), not train)
        y = self.regularized(y, train)
        return ops.relu(self.add_shortcut(y, x, train))


class Bottleneck(Block):
    """1x1, 3x3 in `cardinality` groups, 1x1 (He et al. 2015, figure 5 right; Xie et al. 2017, figure 3c).

    Attributes:
      expansion: output channels, in widths of the stage. With 1, a `base_width` of `64 / cardinality` and biases it is
        the ResNeXt block of d2l.ai, chapter "Residual Networks (ResNet) and ResNeXt", with `bot_mul` 1.
      cardinality: groups of the 3x3.
      base_width: channels of a group in a stage of width 64.
      stride_in_1x1: stride in the first 1x1 (v1) and not in the 3x3 (v1.5).
    """

    expansion: int = 4
    cardinality: int = 1
    base_width: int = 64
    stride_in_1x1: bool = False

    def convs(self) -> list[Any]:
        """Return three convolutions; the 3x3 is `floor(channels * base_width / 64) * cardinality` wide."""
        width = self.channels * self.base_width // 64 * self.cardinality
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        dilation = self.first_dilation or self.dilation
        return [
            self.conv(width, 1, first, name="conv1"),
            self.conv(width, 3, second, groups=self.cardinality, dilation=dilation, name="conv2"),
            self.conv(self.channels * self.expansion, 1, name="conv3"),
        ]

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return relu(branch(x) + shortcut(x)). Needs the rng "dropout" for stochastic depth."""
        conv1, conv2, conv3 = self.convs()
        y = conv_norm(conv1, self.norm(name="bn1"), x, train, activate=True)
        y = self.norm(name="bn2")(conv2(y), not train, activate=True)
        y = conv_norm(conv3, self.last_norm("bn3"), y, train)
        y = self.regularized(y, train)
        return ops.relu(self.add_shortcut(y, x, train))


class PreAct(Block):
    """BatchNorm and ReLU before each convolution, and nothing after the sum (He et al. 2016, arXiv:1603.05027).

    A projection reads the activated input and has no normalization of its own.
    """

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return branch(x) + shortcut(x). Needs the rng "dropout" for stochastic depth."""
        y, shortcut = x, x
        for i, conv in enumerate(self.convs(), start=1):
            y = self.norm(name=f"bn{i}")(y, not train, activate=True)
            if i == 1 and self.projects(x):
                shortcut = y
            y = conv(y)
        y = self.regularized(y, train)
        return self.add_shortcut(y, shortcut, train, normalize=False)


class PreActBlock(PreAct, BasicBlock):
    """`BasicBlock` with pre-activation."""


class PreActBottleneck(PreAct, Bottleneck):
    """`Bottleneck` with pre-activation."""


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
    """Average squares of `stride` pixels a side; at the border, what is inside of the maps."""
    return nn.avg_pool(x, (stride, stride), (stride, stride), "SAME", count_include_pad=False)


def smooth(x: Maps) -> Maps:
    """Average the 2x2 pixels below and right of each, of which those beyond the border are 0, as timm does."""
    return nn.avg_pool(x, (2, 2), (1, 1), "SAME")
