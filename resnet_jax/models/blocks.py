"""The blocks of residual networks: the basic and the bottleneck block, their shortcuts, and squeeze-and-excitation."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax.models.convolution import Conv, kaiming_fan_out
from resnet_jax.models.normalization import BatchNorm, FrozenBatchNorm, relu

Maps = Float[Array, "batch height width channels"]
OutMaps = Float[Array, "batch out_height out_width out_channels"]

SHORTCUTS = ("A", "A_both", "B", "C", "none")
# He et al. 2016 (arXiv:1603.05027), figure 4a to 4e, and table 1 with figure 2b to 2f.
ACTIVATION_ORDERS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_preactivation",
    "preactivation",
)
SHORTCUT_GATES = ("constant", "exclusive", "shortcut_only", "dropout")


def batch_norm(net: nn.Module) -> Callable[..., nn.Module]:
    """Return what makes a BatchNorm of a network: by its momentum, epsilon, variance, axes and precision, or frozen."""
    return functools.partial(
        FrozenBatchNorm if net.norm_frozen else BatchNorm,
        momentum=net.norm_momentum,
        epsilon=net.norm_epsilon,
        unbiased=net.norm_unbiased,
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


def drop_values(x: Maps, key: jax.Array | None) -> Maps:
    """Zero half of the values; without a `key`, as in evaluation, halve all (Hinton et al. 2012, arXiv:1207.0580)."""
    return x * (0.5 if key is None else jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))


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
      channels: width of the stage ("planes" in torch); the output of a bottleneck is `expansion` times as wide.
      stride: spatial stride of the block.
      shortcut: one of `SHORTCUTS`; "B" projects where the shape changes, "C" always, "none" leaves the block plain.
      avg_down: a projection that strides averages 2x2 pixels first instead of skipping three of them: ResNet-D
        (He et al. 2018, arXiv:1812.01187, section 4.1). Where the block dilates in place of a stride, the average
        keeps the size.
      projection_norm: a BatchNorm after a projection, unless under pre-activation.
      conv_bias: biases in the convolutions of the branch and in the projection.
      blur_pool: blur what a convolution with a stride reads (`Conv`).
      activation_order: one of `ACTIVATION_ORDERS`, where BatchNorm and ReLU are (He et al. 2016, arXiv:1603.05027,
        figure 4):
        "original": conv-BN-ReLU, and the last ReLU after the sum;
        "bn_after_addition": the last BatchNorm is after the sum too, before its ReLU;
        "relu_before_addition": the last ReLU ends the branch, and the sum is left as it is;
        "relu_preactivation": ReLU-conv-BN, and the sum is left as it is. A projection reads the activated input;
        "preactivation": BN-ReLU-conv, and the sum is left as it is. A projection reads the activated input and has no
        BatchNorm of its own.
      shortcut_gate: what an information path is scaled by (He et al. 2016, section 3 and table 1), one of
        `SHORTCUT_GATES` or empty. With gates g = sigmoid(W x + b), of a 1x1 convolution with the block's stride:
        "constant": branch and shortcut are halved; "exclusive": the branch is multiplied by g and the shortcut by
        1 - g; "shortcut_only": only the shortcut, by 1 - g; "dropout": half of the shortcut's values are dropped.
      gate_bias: first value of b.
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
    projection_norm: bool = True
    conv_bias: bool = False
    blur_pool: bool = False
    activation_order: str = "original"
    shortcut_gate: str = ""
    gate_bias: float = 0.0
    zero_init_last: bool = False
    se_reduction: int = 0
    drop_path: float = 0.0
    cardinality: int = 1
    base_width: int = 64
    stride_in_1x1: bool = False
    dilation: int = 1
    first_dilation: int | None = None
    dtype: Any = jnp.float32

    def conv(self, channels: int, kernel_size: int, stride: int = 1, groups: int = 1, **fields: Any) -> Conv:
        """Return a convolution of the block: with its precision, and with a bias where the block has them."""
        fields |= dict(bias=self.conv_bias, blurs=self.blur_pool, dtype=self.dtype)
        return Conv(channels, kernel_size, stride, groups, **fields)

    def branch(self) -> list[Conv]:
        """The convolutions of the residual branch, first to last; the last has the channels of the output."""
        raise NotImplementedError("Block has no convolutions of its own: use BasicBlock or BottleneckBlock")

    def join(self, branch: OutMaps, shortcut: OutMaps) -> OutMaps:
        """Return the sum; a method, so that a study can intercept it (`resnet_jax.analysis.watching`)."""
        return branch + shortcut

    def normalized(self, conv: Conv, bn: BatchNorm, x: Maps, train: bool, activate: bool = False) -> OutMaps:
        """Return bn(conv(x)), by one program where that may be told from less than all of conv(x) (`project`)."""
        if train and conv.widens(x.shape[-1]) and not self.is_initializing():
            return bn(x, False, activate=activate, kernel=conv.get_variable("params", "kernel"))
        return bn(conv(x), not train, activate=activate)

    @property
    def activated_first(self) -> bool:
        """Whether an activation is before each convolution, and none after the sum."""
        return self.activation_order in ("relu_preactivation", "preactivation")

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> OutMaps:
        """Return shortcut + branch, activated where the order says so. Needs the rng "dropout" to drop anything."""
        branch, order = self.branch(), self.activation_order
        out_channels = branch[-1].channels
        dilates = self.first_dilation not in (None, self.dilation)  # where it would stride
        changes = self.stride != 1 or dilates or x.shape[-1] != out_channels
        projects = self.shortcut == "C" or (self.shortcut == "B" and changes)

        y, shortcut = x, x
        for i, conv in enumerate(branch, start=1):
            last = i == len(branch)
            zero = last and self.zero_init_last
            bn = self.norm(name=f"bn{i}", scale_init=nn.initializers.zeros if zero else nn.initializers.ones)
            if self.activated_first:
                y = bn(y, not train, activate=True) if order == "preactivation" else relu(y)
                if i == 1 and projects:
                    shortcut = y
                y = conv(y) if order == "preactivation" else self.normalized(conv, bn, y, train)
            elif last and order == "bn_after_addition":
                y = conv(y)
            else:
                y = self.normalized(conv, bn, y, train, activate=not last or order == "relu_before_addition")

        if self.se_reduction:
            y = SqueezeExcite(self.se_reduction, self.dtype, name="se")(y)
        if train and self.drop_path > 0:
            y = drop_path(y, self.drop_path, self.make_rng("dropout"))
        if projects:
            name, stride = "shortcut", self.stride
            if self.avg_down:
                name, stride = "averaged_shortcut", 1
                shortcut = smooth(shortcut) if dilates else average(shortcut, self.stride)
            conv = self.conv(out_channels, 1, stride, name=f"{name}_conv")
            if self.projection_norm and order != "preactivation":
                shortcut = self.normalized(conv, self.norm(name=f"{name}_bn"), shortcut, train)
            else:
                shortcut = conv(shortcut)
        elif changes and self.shortcut != "none":
            shortcut = pad_channels(shortcut, out_channels, self.stride, both_sides=self.shortcut == "A_both")
        if self.shortcut_gate:
            y, shortcut = self.gated(x, y, shortcut, train)
        if self.shortcut != "none":
            y = self.join(y, shortcut)
        if order == "bn_after_addition":
            y = bn(y, not train, activate=True)
        return relu(y) if order == "original" else y

    def gated(self, x: Maps, y: OutMaps, shortcut: OutMaps, train: bool) -> tuple[OutMaps, OutMaps]:
        """Return branch and shortcut as `shortcut_gate` scales them, with gates that read the block's input."""
        if self.shortcut_gate == "constant":
            return 0.5 * y, 0.5 * shortcut
        if self.shortcut_gate == "dropout":
            return y, drop_values(shortcut, self.make_rng("dropout") if train else None)
        bias = nn.initializers.constant(self.gate_bias)
        strides = (self.stride, self.stride)
        gate = nn.Conv(
            y.shape[-1], (1, 1), strides, dtype=self.dtype, kernel_init=kaiming_fan_out, bias_init=bias, name="gate"
        )
        gates = nn.sigmoid(gate(x))
        return (gates * y if self.shortcut_gate == "exclusive" else y), (1.0 - gates) * shortcut


class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2015, figure 5 left)."""

    expansion = 1

    def branch(self) -> list[Conv]:
        """Both as wide as the stage; the first one strides."""
        first_dilation = self.first_dilation or self.dilation
        return [
            self.conv(self.channels, 3, self.stride, dilation=first_dilation, name="conv1"),
            self.conv(self.channels, 3, dilation=self.dilation, name="conv2"),
        ]


class BottleneckBlock(Block):
    """1x1, 3x3 in `cardinality` groups, 1x1 (He et al. 2015, figure 5 right; Xie et al. 2017, figure 3c).

    Attributes:
      expansion: output channels, in widths of the stage. With 1, a `base_width` of `64 / cardinality` and `conv_bias`
        it is the ResNeXt block of d2l.ai, chapter "Residual Networks (ResNet) and ResNeXt", with `bot_mul` 1.
    """

    expansion: int = 4

    def branch(self) -> list[Conv]:
        """The 3x3 is `floor(channels * base_width / 64) * cardinality` wide, as in the ResNeXt authors' code."""
        width = self.channels * self.base_width // 64 * self.cardinality
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        dilation = self.first_dilation or self.dilation
        return [
            self.conv(width, 1, first, name="conv1"),
            self.conv(width, 3, second, self.cardinality, dilation=dilation, name="conv2"),
            self.conv(self.channels * self.expansion, 1, name="conv3"),
        ]
