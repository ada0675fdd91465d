"""The registry: the names users know, each a network class and a few field values."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lookup import Own, is_import, lookup
from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet, declared_fields

Fields = dict[str, Any]

V2 = dict(activation_order="preactivation")

# He et al. 2015, table 1: blocks a stage. ResNet-200 is He et al. 2016 (arXiv:1603.05027), section 5; 10, 14 and 26 are
# timm's.
IMAGENET_DEPTHS = {
    10: dict(stage_sizes=(1, 1, 1, 1), block="basic"),
    14: dict(stage_sizes=(1, 1, 1, 1), block="bottleneck"),
    18: dict(stage_sizes=(2, 2, 2, 2), block="basic"),
    26: dict(stage_sizes=(2, 2, 2, 2), block="bottleneck"),
    34: dict(stage_sizes=(3, 4, 6, 3), block="basic"),
    50: dict(stage_sizes=(3, 4, 6, 3), block="bottleneck"),
    101: dict(stage_sizes=(3, 4, 23, 3), block="bottleneck"),
    152: dict(stage_sizes=(3, 8, 36, 3), block="bottleneck"),
    200: dict(stage_sizes=(3, 24, 36, 3), block="bottleneck"),
}
# What the letter after a depth says in timm. "c" and "d" are of He et al. 2018 (arXiv:1812.01187), figure 2, "s" of
# Gluon and "t" of timm.
LETTERS = {
    "": dict(),
    "c": dict(stem="deep"),
    "d": dict(stem="deep", avg_down=True),
    "s": dict(stem="deep", stem_hidden=(64, 64), stem_width=128),
    "t": dict(stem="deep", stem_hidden=(24, 32), avg_down=True),
}
# Huang et al. 2017 (arXiv:1608.06993), table 1. DenseNet-161 is the authors' wider one, which torchvision has too.
IMAGENET_DENSENETS = {
    121: dict(block_sizes=(6, 12, 24, 16)),
    161: dict(block_sizes=(6, 12, 36, 24), growth_rate=48, stem_width=96),
    169: dict(block_sizes=(6, 12, 32, 32)),
    201: dict(block_sizes=(6, 12, 48, 32)),
}


def imagenet(depth: str, letter: str = "", **fields: Any) -> Fields:
    """The ImageNet network of `depth` layers, with the stem and the projections of a letter."""
    return IMAGENET_DEPTHS[int(depth)] | LETTERS[letter] | fields


def bottleneck(depth: str, letter: str = "", **fields: Any) -> Fields:
    """The same, of bottlenecks. Raises ConfigError for a depth in basic blocks."""
    if IMAGENET_DEPTHS[int(depth)]["block"] != "bottleneck":
        deep = [str(depth) for depth, made in IMAGENET_DEPTHS.items() if made["block"] == "bottleneck"]
        raise ConfigError(f"{depth} layers are in basic blocks, which are one wide: use one of {', '.join(deep)}.")
    return imagenet(depth, letter, **fields)


def se(gated: str | None) -> Fields:
    """Squeeze-and-excitation where a name begins with "se"."""
    return dict(se_reduction=16) if gated else {}


def groups(cardinality: str, base_width: str) -> Fields:
    """A 3x3 in `cardinality` groups of `base_width` channels (Xie et al. 2017, arXiv:1611.05431, table 1)."""
    return dict(cardinality=int(cardinality), base_width=int(base_width))


def cifar(depth: str, **fields: Any) -> Fields:
    """The CIFAR network of `depth` layers: 6n + 2 in basic blocks, 9n + 2 in bottlenecks (He et al. 2015, section 4.2).

    Widths are 16, 32, 64 and the shortcut is A. The bottleneck form is that of He et al. 2016 (arXiv:1603.05027).
    """
    common = dict(stage_widths=(16, 32, 64), stem="cifar", stem_width=16, shortcut="A", num_classes=10)
    return common | thirds(depth, 9 if fields.get("block") == "bottleneck" else 6, 2, "stage_sizes") | fields


def cifar_preact(depth: str) -> Fields:
    """He et al. 2016, table 2: 110 layers in basic blocks, 164 and 1001 in bottlenecks."""
    blocks = dict(shortcut="A") if depth == "110" else dict(block="bottleneck", shortcut="B")
    return cifar(depth, **V2, **blocks)


def cifar_resnext(depth: str, cardinality: str, base_width: str) -> Fields:
    """Xie et al. 2017, section 5.3: widths of 64, 128, 256 and shortcut B."""
    wide = dict(stage_widths=(64, 128, 256), stem_width=64, shortcut="B")
    return cifar(depth, block="bottleneck", **wide, **groups(cardinality, base_width))


def cifar_wrn(depth: str, factor: str) -> Fields:
    """Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 1: 6n + 4 layers, with the projections and no head."""
    widths = tuple(width * int(factor) for width in (16, 32, 64))
    fields = cifar("8", stage_widths=widths, shortcut="B", **V2)
    return fields | thirds(depth, 6, 4, "stage_sizes")


def cifar_densenet_bc(depth: str, growth_rate: str) -> Fields:
    """The CIFAR DenseNet-BC of 6n + 4 layers (Huang et al. 2017, sections 3 and 4.2).

    It begins with twice the growth rate and halves the channels in each transition.
    """
    rate = int(growth_rate)
    common = dict(growth_rate=rate, stem="cifar", stem_width=2 * rate, num_classes=10)
    return common | thirds(depth, 6, 4, "block_sizes")


def thirds(depth: str, per_block: int, others: int, field: str) -> Fields:
    """Three stages of n blocks, where `depth` is `per_block` n + `others`. Raises ConfigError for another depth."""
    blocks, left = divmod(int(depth) - others, per_block)
    if left or blocks < 1:
        near = max(blocks, 1) * per_block + others
        raise ConfigError(
            f"no such network has {depth} layers, which are {per_block}n + {others}: use {near} or {near + per_block}."
        )
    return {field: (blocks,) * 3}


def d2l(depth: str) -> Fields:
    """The ResNet of d2l.ai, chapter "Residual Networks (ResNet) and ResNeXt", for grey images and ten classes.

    Its convolutions have biases, and its projections no BatchNorm.
    """
    return imagenet(depth, conv_bias=True, projection_norm=False, num_classes=10)


N = r"([1-9]\d*)"
DEPTH = rf"({'|'.join(map(str, IMAGENET_DEPTHS))})"

# What names there are: a pattern, the class, and what makes its fields of the pattern's groups.
FAMILIES: tuple[tuple[str, type[nn.Module], Callable[..., Fields]], ...] = (
    (rf"resnet{DEPTH}([cdst]?)", ResNet, imagenet),
    (rf"resnet{DEPTH}_v1", ResNet, lambda depth: bottleneck(depth, stride_in_1x1=True)),
    (rf"resnetv2_{DEPTH}([cdst]?)", ResNet, lambda depth, letter: imagenet(depth, letter, **V2)),
    (rf"plain{DEPTH}", ResNet, lambda depth: imagenet(depth, shortcut="none")),
    (rf"seresnet{DEPTH}([cdst]?)", ResNet, lambda depth, letter: imagenet(depth, letter, **se("se"))),
    (rf"wide_resnet{DEPTH}_{N}", ResNet, lambda depth, factor: bottleneck(depth, base_width=64 * int(factor))),
    (
        rf"(se)?resnext{DEPTH}([cdst]?)_{N}x{N}d",
        ResNet,
        lambda gated, depth, letter, *sizes: bottleneck(depth, letter, **se(gated), **groups(*sizes)),
    ),
    (rf"cifar_resnet{N}", ResNet, cifar),
    (rf"cifar_plain{N}", ResNet, lambda depth: cifar(depth, shortcut="none")),
    (r"cifar_preact_resnet(110|164|1001)", ResNet, cifar_preact),
    (rf"cifar_resnext{N}_{N}x{N}d", ResNet, cifar_resnext),
    (rf"cifar_wrn{N}_{N}", ResNet, cifar_wrn),
    (rf"d2l_resnet{DEPTH}", ResNet, d2l),
    (rf"densenet({'|'.join(map(str, IMAGENET_DENSENETS))})", DenseNet, lambda depth: IMAGENET_DENSENETS[int(depth)]),
    (rf"cifar_densenet_bc{N}_{N}", DenseNet, cifar_densenet_bc),
)

# The names that are listed: those of papers, torchvision and timm.
CLASSIC, DEEPER = (18, 34, 50, 101, 152, 200), (50, 101, 152, 200)
# Xie et al. 2017, tables 3 and 4: as costly as ResNet-50 and ResNet-101, where 1x64d is ResNet itself, and twice that.
RESNEXTS = (
    *(f"resnext{depth}_{kind}" for depth in (50, 101) for kind in ("1x64d", "2x40d", "4x24d", "8x14d", "32x4d")),
    *(f"resnext101_{kind}" for kind in ("1x100d", "2x64d", "64x4d", "32x8d")),
)
NAMES = (
    *(f"{family}{depth}" for family in ("resnet", "resnetv2_", "plain") for depth in CLASSIC),
    *(f"resnet{depth}_v1" for depth in DEEPER),
    *(f"resnet{depth}{letter}" for depth in (18, 34, 50, 101, 152) for letter in "cdst"),
    *("resnet10t", "resnet14t", "resnet26", "resnet26d", "resnet26t", "resnet200d"),
    *(f"resnetv2_{depth}d" for depth in (18, 34, 50, 101, 152)),
    *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("seresnet50t", "seresnet152d", "resnext50d_32x4d"),
    *RESNEXTS,
    *(f"seresnext{kind}" for kind in ("50_32x4d", "101_32x4d", "101_32x8d", "101_64x4d")),
    *("seresnext101d_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"{family}{depth}" for family in ("cifar_resnet", "cifar_plain") for depth in (8, 20, 32, 44, 56, 110, 1202)),
    *(f"cifar_preact_resnet{depth}" for depth in (110, 164, 1001)),
    *("cifar_resnext29_8x64d", "cifar_resnext29_16x64d", "cifar_wrn28_10", "d2l_resnet18"),
    *(f"densenet{depth}" for depth in IMAGENET_DENSENETS),
    *(f"cifar_densenet_bc{kind}" for kind in ("100_12", "250_24", "190_40")),
)


def find(name: str) -> tuple[type[nn.Module], Fields] | None:
    """Return the class and the fields of a name, listed or not; None if it belongs to no family.

    Raises ConfigError for a depth that the family has not.
    """
    for pattern, network, fields_of in FAMILIES:
        if match := re.fullmatch(pattern, name):
            return network, fields_of(*match.groups())
    return None


NETWORKS = {name: find(name) for name in NAMES}


def list_models(pattern: str = "*") -> list[str]:
    """Return the listed names that match a shell-style pattern, sorted as people do: resnet18 before resnet101.

    `create_model` also takes names of the same form that are not listed, such as "cifar_resnext29_4x32d".
    """
    return sorted(
        fnmatch.filter(NETWORKS, pattern),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Return the network called `name`, with any of its fields overridden.

    Besides the listed names, it takes those that differ from them in a number: any depth, cardinality and base width
    that its family has ("resnext50_16x8d", "cifar_plain26", "cifar_wrn40_4", "cifar_densenet_bc40_12").

    "module:name" is a class of your own, which is made with the overrides alone.

    Raises ConfigError for an unknown name or field, naming the nearest.
    """
    found = (own_network(name), {}) if is_import(name) else find(name)
    if found is None:
        raise ConfigError(
            f"no network is registered as {name!r}{nearest(name, NETWORKS)}; resnet_jax.list_models() gives all names."
        )
    network, fields = found
    known = declared_fields(network)
    for field in overrides:
        if field not in known:
            raise ConfigError(
                f"{network.__name__} has no field {field!r}{nearest(field, known)}; its fields are "
                f"{', '.join(sorted(known))}."
            )
    make = Own("network", name, network) if is_import(name) else network
    return make(**fields | overrides)


def own_network(name: str) -> type[nn.Module]:
    """Return the class of the user's that "module:name" is. Raises ConfigError if it is no network."""
    network = lookup("network", name, {})
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ConfigError(f"the network {name!r} must be a class of flax.linen.Module.")
    if "num_classes" not in declared_fields(network):
        raise ConfigError(f"the network {name!r} has no field num_classes: add it, for the width of its logits.")
    return network


def named(name: str, fields: Mapping[str, Any]) -> str:
    """Return a network's name and those of the fields that are not its own anyway, as "resnet34 shortcut=C".

    Unknown names have no fields of their own. Values may be given as text.
    """
    try:
        found = find(name)
    except ConfigError:
        found = None
    own = {}
    if found is not None:
        network, given = found
        own = {field.name: field.default for field in dataclasses.fields(network)} | given
    other = [f"{field}={value}" for field, value in sorted(fields.items()) if not _same(value, own.get(field))]
    return " ".join([name, *other])


def _same(value: Any, other: Any) -> bool:
    try:
        return float(value) == float(other)
    except (TypeError, ValueError):
        return str(value) == str(other)


def image_shape(name: str) -> tuple[int, int, int]:
    """Return height, width and channels of the images for which a network's costs were published."""
    sizes = {"cifar": (32, 32, 3), "d2l": (96, 96, 1)}
    return sizes.get(name.partition("_")[0], (224, 224, 3))
