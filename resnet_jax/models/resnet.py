"""ResNet: one module whose field values make v1, v1.5, v2, ResNeXt, SE, wide, deep-stem, CIFAR and plain networks."""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.errors import ConfigError
from resnet_jax.lookup import lookup
from resnet_jax.models import identity, stem
from resnet_jax.models.blocks import SHORTCUTS, BasicBlock, Bottleneck, PreActBlock, PreActBottleneck
from resnet_jax.models.layers import Images, check_at_least, check_choices, layers_of, torch_linear

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
PREACTIVATED = {"basic": PreActBlock, "bottleneck": PreActBottleneck}
ABLATED = {"basic": identity.IdentityBasicBlock, "bottleneck": identity.IdentityBottleneck}


class FeatureInfo(NamedTuple):
    """A feature map of a network.

    Attributes:
      name: under which `features` returns it.
      channels: its last axis.
      stride: pixels of the image that a step in it spans.
    """

    name: str
    channels: int
    stride: int


class ResNet(nn.Module):
    """A residual network (He et al. 2015, arXiv:1512.03385, table 1 and section 4.2).

    Attributes:
      stage_sizes: blocks in each stage; every stage but the first halves the resolution.
      stage_widths: channels of each stage, before the block's expansion.
      block: "basic", "bottleneck", a class of your own, or its name as "module:name". Such a class is made with those
        of the fields of `Block` and `Bottleneck` that it declares; its output has `expansion` (1 if it has none) times
        `channels` channels, and it is called with the maps and `train`.
      num_classes: logits; 0 leaves the head out and returns the pooled features.
      stem: "imagenet" (7x7 stride 2, then max-pool 3x3 stride 2), "deep" (three 3x3 for the 7x7: He et al. 2018,
        arXiv:1812.01187) or "cifar" (3x3).
      stem_width: channels of the stem.
      stem_hidden: channels of a deep stem's convolutions before the last.
      output_stride: pixels of the image that a step in the last maps spans: later stages dilate their 3x3 where they
        would stride (Chen et al. 2017, arXiv:1706.05587, section 3.1); 0: every stage but the first strides.
      cardinality: groups of the bottleneck's 3x3 (Xie et al. 2017, arXiv:1611.05431).
      base_width: channels per group of the bottleneck's 3x3 in a stage of width 64.
      expansion: output channels of a bottleneck, in widths of its stage.
      shortcut: "A" (zero channels after), "A_both" (zero channels on both sides), "B" (projection where the shape
        changes), "C" (projection always), "none" (plain network).
      avg_down: projections average 2x2 pixels where they would stride: ResNet-D (arXiv:1812.01187).
      projection_norm: a BatchNorm after each projection; the ResNet-18 of d2l.ai has none.
      conv_bias: biases in all convolutions, as d2l.ai has them.
      blur_pool: blur by [1, 2, 1] x [1, 2, 1] / 16 what a convolution with a stride and 16 input channels or more reads
        (Zhang 2019, arXiv:1904.11486, as in libffcv/ffcv-imagenet). Multiply-adds are counted without it.
      se_reduction: squeeze-and-excitation in every block, with `1 / se_reduction` of its channels (Hu et al. 2018,
        arXiv:1709.01507); 0 leaves it out.
      activation_order: "original" (v1), "bn_after_addition", "relu_before_addition", "relu_preactivation" (ReLU-only
        pre-activation) or "preactivation" (full pre-activation, v2): He et al. 2016 (arXiv:1603.05027), figure 4 and
        table 2; `IdentityBlock` describes them. With either pre-activation one more activation follows the last block.
        The stem ends in BatchNorm and ReLU but for "preactivation".
      shortcut_gate: "" or, by He et al. 2016, figure 2 and table 1, "constant" (shortcut and branch are halved),
        "exclusive" (gates g of a 1x1 convolution scale the branch, and 1 - g the shortcut), "shortcut_only" (1 - g
        scales the shortcut) or "dropout" (of half of the shortcut). The table's "1x1 conv shortcut" is shortcut "C".
      gate_bias: first value of the gates' biases; the paper tried 0 to -7.
      stride_in_1x1: stride in the first 1x1 of a bottleneck (v1); else in its 3x3 (v1.5).
      zero_init_last: start the scale of each block's last BatchNorm at 0 (Goyal et al. 2017, arXiv:1706.02677).
      stochastic_depth: drop probability of the last block's branch; it grows linearly from the input
        (arXiv:1603.09382).
      norm_momentum, norm_epsilon: of every BatchNorm. Flax momentum 0.9 is torch momentum 0.1.
      norm_unbiased: running variances are over N - 1 values, as torch keeps them; else over N, as Flax does.
      norm_frozen: use the running statistics in training too, and leave them as they are.
      norm_axis: mesh axes over which a training batch's BatchNorm statistics are shared; None keeps them local.
      implementation: "fast" or "reference": the same values and gradients by the programs that measured best on each
        platform, or by ordinary JAX, which supports every transformation (`resnet_jax.ops`).
      dtype: of the computation. Parameters, statistics and logits are float32 always.

    Raises ConfigError when it is first used with fields that make no network.
    """

    stage_sizes: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    block: str | type[nn.Module] = "basic"
    num_classes: int = 1000
    stem: str = "imagenet"
    stem_width: int = 64
    stem_hidden: tuple[int, ...] = (32, 32)
    output_stride: int = 0
    cardinality: int = 1
    base_width: int = 64
    expansion: int = 4
    shortcut: str = "B"
    avg_down: bool = False
    projection_norm: bool = True
    conv_bias: bool = False
    blur_pool: bool = False
    se_reduction: int = 0
    activation_order: str = "original"
    shortcut_gate: str = ""
    gate_bias: float = 0.0
    stride_in_1x1: bool = False
    zero_init_last: bool = False
    stochastic_depth: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_unbiased: bool = True
    norm_frozen: bool = False
    norm_axis: Any = None
    implementation: str = "fast"
    dtype: Any = jnp.float32

    @property
    def preactivation(self) -> bool:
        """Whether BatchNorm and ReLU are before each convolution: v2."""
        return self.activation_order == "preactivation"

    def setup(self):
        """Make the stem, the blocks, the last BatchNorm of a pre-activation network, and the head."""
        check(self)
        layers = layers_of(self, bias=self.conv_bias)
        if self.stem == "deep":
            widths = (*self.stem_hidden, self.stem_width)
            self.stem_conv = stem.DeepStem(widths, conv=layers["conv"], norm=layers["norm"])
        else:
            kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
            self.stem_conv = layers["conv"](self.stem_width, kernel_size, stride)
        if not self.preactivation:
            self.stem_bn = layers["norm"]()

        self.stages = tuple(
            tuple(f"stage{stage}_block{i + 1}" for i in range(size))
            for stage, size in enumerate(self.stage_sizes, start=1)
        )
        count = 0
        for names, width, resolution in zip(self.stages, self.stage_widths, resolutions(self), strict=True):
            for i, name in enumerate(names):
                count += 1
                block = self.make_block(
                    channels=width,
                    stride=resolution.stride if i == 0 else 1,
                    dilation=resolution.dilation,
                    first_dilation=resolution.first_dilation if i == 0 else None,
                    drop_path=self.stochastic_depth * count / sum(self.stage_sizes),
                )
                setattr(self, name, block)

        if self.preactivation:
            self.last_bn = layers["norm"]()
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=torch_linear)

    @nn.nowrap
    def make_block(self, **fields: Any) -> nn.Module:
        """Return a block with these fields and those of the network that its class declares."""
        block = block_class(self)
        shared: dict[str, Any] = {name: getattr(self, name) for name in BLOCK_FIELDS}
        fields = shared | layers_of(self, bias=self.conv_bias, blurs=self.blur_pool) | fields
        return block(**{name: value for name, value in fields.items() if name in declared_fields(block)})

    def features(self, images: Images, train: bool = False) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Return feature maps by name: "stem" (before its max-pool), "stage1", "stage2", and so on, in `dtype`."""
        return self._maps(images, train, keep_stem=True)

    def _maps(self, images: Images, train: bool, keep_stem: bool) -> dict[str, Any]:
        x = images.astype(self.dtype)
        x = self.stem_conv(x, train) if isinstance(self.stem_conv, stem.DeepStem) else self.stem_conv(x)
        norm = None if self.preactivation else self.stem_bn
        if self.stem == "cifar":
            x = x if norm is None else norm(x, not train, activate=True)
            maps = {"stem": x}
        else:
            kept, x = stem.norm_and_pool(norm, x, train, keep_stem, self.implementation)
            maps = {"stem": kept}
        for i, names in enumerate(self.stages, start=1):
            for name in names:
                x = getattr(self, name)(x, train)
            maps[f"stage{i}"] = x
        if self.preactivation:
            x = self.last_bn(x, not train, activate=True)
        elif self.activation_order == "relu_preactivation":
            x = ops.relu(x)
        return maps | {f"stage{len(self.stages)}": x}

    @nn.nowrap
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Return name, channels and stride of what `features` returns, in its order. It needs no variables."""
        check(self)
        stride = stem.STRIDES[self.stem]
        info = [FeatureInfo("stem", self.stem_width, min(stride, 2))]
        for i, (width, stage) in enumerate(zip(self.stage_widths, resolutions(self), strict=True), start=1):
            stride *= stage.stride
            info.append(FeatureInfo(f"stage{i}", width * expansion_of(self), stride))
        return tuple(info)

    def pre_logits(self, images: Images, train: bool = False) -> Float[Array, "batch features"]:
        """Return what the head reads: the last maps' float32 means over all pixels."""
        maps = self._maps(images, train, keep_stem=False)
        return jnp.mean(maps[f"stage{len(self.stages)}"].astype(jnp.float32), axis=(1, 2))

    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"]:
        """Return float32 logits, or pooled features where `num_classes` is 0."""
        pooled = self.pre_logits(images, train)
        return self.head(pooled) if self.num_classes else pooled


class Resolution(NamedTuple):
    """How a stage treats the resolution.

    Attributes:
      stride: of its first block.
      first_dilation: of the first 3x3 convolution in it.
      dilation: of all others.
    """

    stride: int
    first_dilation: int
    dilation: int


def resolutions(net: ResNet) -> list[Resolution]:
    """Return how each stage treats the resolution."""
    stride, dilation, stages = stem.STRIDES[net.stem], 1, [Resolution(1, 1, 1)]
    for _ in net.stage_sizes[1:]:
        if stride == net.output_stride:
            stages.append(Resolution(1, dilation, 2 * dilation))
            dilation *= 2
        else:
            stages.append(Resolution(2, dilation, dilation))
            stride *= 2
    return stages


# Fields of the network that a block has too.
BLOCK_FIELDS = {
    *("shortcut", "avg_down", "projection_norm", "zero_init_last", "se_reduction", "dtype"),
    *("expansion", "cardinality", "base_width", "stride_in_1x1"),
    *("activation_order", "shortcut_gate", "gate_bias"),
}


def block_class(net: ResNet) -> type[nn.Module]:
    """Return the class of a network's blocks. Raises ConfigError if there is none of that name."""
    if not isinstance(net.block, str):
        return net.block
    standard = net.activation_order in ("original", "preactivation") and not net.shortcut_gate
    table = {True: PREACTIVATED, False: BLOCKS}[net.preactivation] if standard else ABLATED
    return lookup("block", net.block, table)


def declared_fields(network: type[nn.Module]) -> set[str]:
    """Return the names of the fields of a class of modules."""
    return {field.name for field in dataclasses.fields(network)} - {"parent", "name"}


def expansion_of(net: ResNet) -> int:
    """Return how many times as wide as its stage the output of a block is."""
    block = block_class(net)
    return net.expansion if "expansion" in declared_fields(block) else getattr(block, "expansion", 1)


def check(net: ResNet) -> None:
    """Raise ConfigError if the fields of `net` make no network, or one that differs from what they seem to say."""
    orders, gates = identity.ACTIVATION_ORDERS, ("", *identity.SHORTCUT_GATES)
    check_choices(net, stem=tuple(stem.STRIDES), shortcut=SHORTCUTS, activation_order=orders, shortcut_gate=gates)
    check_choices(net, implementation=ops.IMPLEMENTATIONS)
    block_class(net)
    if not net.stage_sizes or len(net.stage_sizes) != len(net.stage_widths):
        raise ConfigError(
            f"stage_sizes is {net.stage_sizes} and stage_widths {net.stage_widths}: give every stage one of each."
        )
    check_at_least(net, 1, "stage_sizes", "stage_widths", "stem_width", "stem_hidden")
    check_at_least(net, 1, "cardinality", "base_width", "expansion")
    check_at_least(net, 0, "se_reduction", "num_classes")
    if net.stem != "deep" and net.stem_hidden != ResNet.stem_hidden:
        raise ConfigError("stem_hidden belongs to deep stems: set stem to deep.")
    strides = [stem.STRIDES[net.stem] * 2**stage for stage in range(len(net.stage_sizes))]
    if net.output_stride not in (0, *strides):
        raise ConfigError(
            f"output_stride is {net.output_stride}: this network can have {', '.join(map(str, strides))}, or 0 for its "
            "own."
        )
    if net.avg_down and net.shortcut not in ("B", "C"):
        raise ConfigError(f"avg_down changes projections, and shortcut {net.shortcut} has none: use shortcut B or C.")
    if not net.projection_norm and net.shortcut not in ("B", "C"):
        raise ConfigError(f"projection_norm changes projections, and shortcut {net.shortcut} has none: leave it on.")
    bottleneck_only = ("cardinality", "base_width", "expansion", "stride_in_1x1")
    if net.block == "basic" and any(getattr(net, field) != getattr(ResNet, field) for field in bottleneck_only):
        raise ConfigError(f"{', '.join(bottleneck_only)} belong to bottlenecks: set block to bottleneck.")
    if net.zero_init_last and net.activation_order not in ("original", "relu_preactivation"):
        raise ConfigError(
            "zero_init_last needs a BatchNorm at the end of each branch, and activation_order "
            f"{net.activation_order} has none there: turn it off, or use original or relu_preactivation."
        )
    if net.shortcut == "none" and net.shortcut_gate:
        raise ConfigError("shortcut_gate scales shortcuts, and shortcut none has none: use shortcut A, B or C.")
    if net.gate_bias and net.shortcut_gate not in ("exclusive", "shortcut_only"):
        raise ConfigError("gate_bias needs gates with parameters: set shortcut_gate to exclusive or shortcut_only.")
    if net.block == "bottleneck" and min(net.stage_widths) * net.base_width < 64:
        raise ConfigError(
            f"base_width {net.base_width} leaves no channel in a stage {min(net.stage_widths)} wide: use "
            f"{math.ceil(64 / min(net.stage_widths))} or more."
        )
    widths = [net.stem_width, *(width * expansion_of(net) for width in net.stage_widths)]
    if net.shortcut.startswith("A") and widths != sorted(widths):
        raise ConfigError(f"shortcut A can only add channels, and the widths {widths} fall: use shortcut B.")
    if net.shortcut == "none" and (net.zero_init_last or net.stochastic_depth):
        raise ConfigError("zero_init_last and stochastic_depth need a shortcut: turn them off for a plain network.")
    if not 0 <= net.stochastic_depth < 1:
        raise ConfigError(f"stochastic_depth is {net.stochastic_depth}: use a probability below 1.")
