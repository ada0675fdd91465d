"""DenseNet: one module whose field values make the plain, bottleneck (B) and compressed (C) networks of its paper."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.errors import ConfigError
from resnet_jax.models.layers import (
    Images,
    Maps,
    OutMaps,
    check_at_least,
    check_choices,
    kaiming_fan_in,
    layers_of,
    torch_linear,
)
from resnet_jax.models.resnet import FeatureInfo
from resnet_jax.models.stem import norm_and_pool

STEMS = ("imagenet", "cifar")


class DenseLayer(nn.Module):
    """BN-ReLU-conv, once or twice, whose maps are put after those it reads (Huang et al. 2017, equation 2).

    Attributes:
      norm: makes a BatchNorm; takes `name`.
      conv: makes a convolution; takes channels, kernel size and `name`.
      growth_rate: channels that the layer adds, by a 3x3.
      bottleneck: width of the 1x1 before it, in growth rates; 0: there is none.
      dropout: probability with which a value after a convolution is zeroed in training.
    """

    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    growth_rate: int
    bottleneck: int
    dropout: float

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> Float[Array, "batch height width out_channels"]:
        """Return the maps read and, after them, the `growth_rate` new ones."""
        convs = [(self.growth_rate, 3)]
        if self.bottleneck:
            convs.insert(0, (self.bottleneck * self.growth_rate, 1))
        y = x
        for i, (channels, kernel_size) in enumerate(convs, start=1):
            y = self.norm(name=f"bn{i}")(y, not train, activate=True)
            y = self.conv(channels, kernel_size, name=f"conv{i}")(y)
            y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """BN-ReLU-conv 1x1 and a 2x2 average pool between two dense blocks (Huang et al. 2017, section 3).

    Attributes:
      norm, conv, dropout: as in `DenseLayer`.
      compression: share of the channels that is kept.
    """

    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    compression: float
    dropout: float

    @nn.compact
    def __call__(self, x: Maps, train: bool = False) -> OutMaps:
        """Return maps of half the size; an odd last row or column is dropped, as torch does."""
        height, width, channels = x.shape[1:]
        if min(height, width) < 2:
            raise ConfigError(f"the images are too small: maps of {height}x{width} pixels cannot be halved.")
        y = self.norm(name="bn")(x, not train, activate=True)
        y = self.conv(math.floor(channels * self.compression), 1, name="conv")(y)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return nn.avg_pool(y, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """A densely connected network (Huang et al. 2017, arXiv:1608.06993, table 1 and section 3).

    Each layer makes a whole new array of the maps it read and its own, so that a block of L layers copies in O(L^2).

    Attributes:
      block_sizes: layers in each dense block; a transition halves the resolution between two blocks.
      growth_rate: channels that each layer adds ("k").
      num_classes: logits; 0 leaves the head out and returns the pooled features.
      stem: "imagenet" (7x7 stride 2 with BatchNorm and ReLU, then max-pool 3x3 stride 2) or "cifar" (3x3 alone).
      stem_width: channels of the stem.
      bottleneck: width of the 1x1 before each layer's 3x3, in growth rates; 0: layers without it.
      compression: share of its channels that a transition keeps ("theta").
      dropout: probability with which a value is zeroed after each convolution but the stem's in training, as the paper
        does without augmentation. torchvision's `drop_rate` does so after the 3x3 only.
      norm_momentum, norm_epsilon: of every BatchNorm. Flax momentum 0.9 is torch momentum 0.1.
      norm_unbiased: running variances are over N - 1 values, as torch keeps them; else over N, as Flax does.
      norm_frozen: use the running statistics in training too, and leave them as they are.
      norm_axis: mesh axes over which a training batch's BatchNorm statistics are shared; None keeps them local.
      implementation: "fast" or "reference" (`resnet_jax.ops`).
      dtype: of the computation. Parameters, statistics and logits are float32 always.

    Raises ConfigError when it is first used with fields that make no network, or with images too small for it.
    """

    block_sizes: tuple[int, ...]
    growth_rate: int = 32
    num_classes: int = 1000
    stem: str = "imagenet"
    stem_width: int = 64
    bottleneck: int = 4
    compression: float = 0.5
    dropout: float = 0.0
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_unbiased: bool = True
    norm_frozen: bool = False
    norm_axis: Any = None
    implementation: str = "fast"
    dtype: Any = jnp.float32

    def setup(self):
        """Make the stem, the layers and transitions, the last BatchNorm, and the head."""
        check(self)
        layers = layers_of(self, kernel_init=kaiming_fan_in)
        conv, norm = layers["conv"], layers["norm"]
        kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        self.stem_conv = conv(self.stem_width, kernel_size, stride)
        if self.stem == "imagenet":
            self.stem_bn = norm()

        fields: dict[str, Any] = dict(**layers, dropout=self.dropout)
        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                setattr(self, f"transition{block - 1}", Transition(compression=self.compression, **fields))
            for layer in range(1, size + 1):
                dense = DenseLayer(growth_rate=self.growth_rate, bottleneck=self.bottleneck, **fields)
                setattr(self, f"block{block}_layer{layer}", dense)

        self.last_bn = norm()
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=torch_linear)

    def features(self, images: Images, train: bool = False) -> dict[str, Float[Array, "batch _ _ _"]]:
        """Return feature maps by name: "stem" (before its max-pool), "stage1", "stage2", and so on, in `dtype`.

        A stage is its dense block's output, before the transition; the last one is normalized and activated.
        """
        return self._maps(images, train, keep_stem=True)

    def _maps(self, images: Images, train: bool, keep_stem: bool) -> dict[str, Any]:
        x = self.stem_conv(images.astype(self.dtype))
        maps = {"stem": x}
        if self.stem == "imagenet":
            maps["stem"], x = norm_and_pool(self.stem_bn, x, train, keep_stem, self.implementation)
        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                x = getattr(self, f"transition{block - 1}")(x, train)
            for layer in range(1, size + 1):
                x = getattr(self, f"block{block}_layer{layer}")(x, train)
            maps[f"stage{block}"] = x
        maps[f"stage{len(self.block_sizes)}"] = self.last_bn(x, not train, activate=True)
        return maps

    @nn.nowrap
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Return name, channels and stride of what `features` returns, in its order. It needs no variables.

        Images whose sides are no multiples of the last stride have maps of fewer pixels, as transitions round down.
        """
        check(self)
        stem_stride, stride = (2, 4) if self.stem == "imagenet" else (1, 1)
        channels = self.stem_width
        info = [FeatureInfo("stem", channels, stem_stride)]
        for block, size in enumerate(self.block_sizes, start=1):
            if block > 1:
                channels, stride = math.floor(channels * self.compression), stride * 2
            channels += size * self.growth_rate
            info.append(FeatureInfo(f"stage{block}", channels, stride))
        return tuple(info)

    def pre_logits(self, images: Images, train: bool = False) -> Float[Array, "batch features"]:
        """Return what the head reads: the last maps' float32 means over all pixels."""
        maps = self._maps(images, train, keep_stem=False)
        return jnp.mean(maps[f"stage{len(self.block_sizes)}"].astype(jnp.float32), axis=(1, 2))

    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"]:
        """Return float32 logits, or pooled features where `num_classes` is 0. Needs the rng "dropout" to drop."""
        pooled = self.pre_logits(images, train)
        return self.head(pooled) if self.num_classes else pooled


def check(net: DenseNet) -> None:
    """Raise ConfigError if the fields of `net` make no network."""
    check_choices(net, stem=STEMS, implementation=ops.IMPLEMENTATIONS)
    if not net.block_sizes:
        raise ConfigError("block_sizes is empty: give the layers of each dense block.")
    check_at_least(net, 1, "block_sizes", "growth_rate", "stem_width")
    check_at_least(net, 0, "bottleneck", "num_classes")
    if not 0 < net.compression <= 1:
        raise ConfigError(f"compression is {net.compression}: use a share above 0 and up to 1.")
    if net.compression * (net.growth_rate + 1) < 1:  # the fewest channels that a transition may read
        raise ConfigError(f"compression {net.compression} may leave no channel of a growth rate of {net.growth_rate}.")
    if not 0 <= net.dropout < 1:
        raise ConfigError(f"dropout is {net.dropout}: use a probability below 1.")
