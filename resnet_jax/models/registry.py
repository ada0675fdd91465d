"""The registry: the names users know, each a network class and a few field values."""

import dataclasses
import fnmatch
import re
from typing import Any

import flax.linen as nn

from resnet_jax.errors import ConfigError, nearest
from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet

# He et al. 2015, table 1: blocks a stage. ResNet-200 is He et al. 2016 (arXiv:1603.05027), section 5.
IMAGENET_DEPTHS = {
    18: dict(stage_sizes=(2, 2, 2, 2), block="basic"),
    34: dict(stage_sizes=(3, 4, 6, 3), block="basic"),
    50: dict(stage_sizes=(3, 4, 6, 3), block="bottleneck"),
    101: dict(stage_sizes=(3, 4, 23, 3), block="bottleneck"),
    152: dict(stage_sizes=(3, 8, 36, 3), block="bottleneck"),
    200: dict(stage_sizes=(3, 24, 36, 3), block="bottleneck"),
}
# What the letter after a depth says in timm. "c" and "d" are of He et al. 2018 (arXiv:1812.01187), figure 2, "s" of
# Gluon and "t" of timm.
DEEP = {
    "c": dict(stem="deep"),
    "d": dict(stem="deep", avg_down=True),
    "s": dict(stem="deep", stem_hidden=(64, 64), stem_width=128),
    "t": dict(stem="deep", stem_hidden=(24, 32), avg_down=True),
}


def cifar(depth: int, **fields: Any) -> dict[str, Any]:
    """The CIFAR network of `depth` layers: 6n + 2 in basic blocks, 9n + 2 in bottlenecks (He et al. 2015, section 4.2).

    Widths are 16, 32, 64 and the shortcut is A. The bottleneck form is that of He et al. 2016 (arXiv:1603.05027).
    """
    per_stage = 9 if fields.get("block") == "bottleneck" else 6
    common = dict(stage_widths=(16, 32, 64), stem="cifar", stem_width=16, shortcut="A", num_classes=10)
    return common | dict(stage_sizes=((depth - 2) // per_stage,) * 3) | fields


def resnext(depth: int, cardinality: int, base_width: int) -> dict[str, Any]:
    """The ResNet of `depth` layers in `cardinality` groups (Xie et al. 2017, arXiv:1611.05431, table 1)."""
    return IMAGENET_DEPTHS[depth] | dict(cardinality=cardinality, base_width=base_width)


def _networks() -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    names = {}
    for depth, fields in IMAGENET_DEPTHS.items():
        names[f"resnet{depth}"] = fields
        names[f"resnetv2_{depth}"] = fields | dict(preactivation=True)
        names[f"plain{depth}"] = fields | dict(shortcut="none")
        if fields["block"] == "bottleneck":
            names[f"resnet{depth}_v1"] = fields | dict(stride_in_1x1=True)
    for depth in (18, 34, 50, 101, 152):
        names[f"resnet{depth}d"] = IMAGENET_DEPTHS[depth] | DEEP["d"]
        names[f"resnetv2_{depth}d"] = IMAGENET_DEPTHS[depth] | DEEP["d"] | dict(preactivation=True)
        names[f"seresnet{depth}"] = IMAGENET_DEPTHS[depth] | dict(se_reduction=16)
    names["resnet26t"] = dict(stage_sizes=(2, 2, 2, 2), block="bottleneck") | DEEP["t"]
    for letter in "cst":
        names[f"resnet50{letter}"] = IMAGENET_DEPTHS[50] | DEEP[letter]
    # Xie et al. 2017, table 3: other cardinalities at the same cost. 1x64d is ResNet itself.
    for cardinality, base_width in ((1, 64), (2, 40), (4, 24), (8, 14)):
        for depth in (50, 101):
            names[f"resnext{depth}_{cardinality}x{base_width}d"] = resnext(depth, cardinality, base_width)
    for depth, cardinality, base_width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        fields = resnext(depth, cardinality, base_width)
        names[f"resnext{depth}_{cardinality}x{base_width}d"] = fields
        names[f"seresnext{depth}_{cardinality}x{base_width}d"] = fields | dict(se_reduction=16)
    names["resnext50d_32x4d"] = resnext(50, 32, 4) | DEEP["d"]
    for depth in (50, 101):
        names[f"wide_resnet{depth}_2"] = IMAGENET_DEPTHS[depth] | dict(base_width=128)
    for depth in (8, 20, 32, 44, 56, 110, 1202):
        names[f"cifar_resnet{depth}"] = cifar(depth)
        names[f"cifar_plain{depth}"] = cifar(depth, shortcut="none")
    names["cifar_preact_resnet110"] = cifar(110, preactivation=True)
    for depth in (164, 1001):
        names[f"cifar_preact_resnet{depth}"] = cifar(depth, preactivation=True, block="bottleneck", shortcut="B")
    for cardinality in (8, 16):  # Xie et al. 2017, section 5.3
        fields = dict(stage_widths=(64, 128, 256), stem_width=64, shortcut="B", cardinality=cardinality)
        names[f"cifar_resnext29_{cardinality}x64d"] = cifar(29, block="bottleneck", **fields)
    # Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 1: their 28 layers count three projections and no head.
    names["cifar_wrn28_10"] = cifar(26, stage_widths=(160, 320, 640), preactivation=True, shortcut="B")
    return {name: (ResNet, fields) for name, fields in names.items()}


# Huang et al. 2017 (arXiv:1608.06993), table 1. DenseNet-161 is the authors' wider one, which torchvision has too.
IMAGENET_DENSENETS = {
    121: dict(block_sizes=(6, 12, 24, 16)),
    161: dict(block_sizes=(6, 12, 36, 24), growth_rate=48, stem_width=96),
    169: dict(block_sizes=(6, 12, 32, 32)),
    201: dict(block_sizes=(6, 12, 48, 32)),
}


def cifar_densenet_bc(depth: int, growth_rate: int) -> dict[str, Any]:
    """The CIFAR DenseNet-BC of `depth` layers: three blocks, 6n + 4 (Huang et al. 2017, sections 3 and 4.2).

    It begins with twice the growth rate and halves the channels in each transition.
    """
    common = dict(growth_rate=growth_rate, stem="cifar", stem_width=2 * growth_rate, num_classes=10)
    return common | dict(block_sizes=((depth - 4) // 6,) * 3)


def _densenets() -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    names = {f"densenet{depth}": fields for depth, fields in IMAGENET_DENSENETS.items()}
    for depth, growth_rate in ((100, 12), (250, 24), (190, 40)):
        names[f"cifar_densenet_bc{depth}_{growth_rate}"] = cifar_densenet_bc(depth, growth_rate)
    return {name: (DenseNet, fields) for name, fields in names.items()}


NETWORKS = _networks() | _densenets()


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell-style pattern, sorted as people do: resnet18 before resnet101."""
    return sorted(
        fnmatch.filter(NETWORKS, pattern),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Return the network registered as `name`, with any of its fields overridden.

    Raises ConfigError for an unknown name or field, naming the nearest.
    """
    if name not in NETWORKS:
        raise ConfigError(
            f"no network is registered as {name!r}{nearest(name, NETWORKS)}; resnet_jax.list_models() gives all names."
        )
    network, fields = NETWORKS[name]
    known = {field.name for field in dataclasses.fields(network)} - {"parent", "name"}
    for field in overrides:
        if field not in known:
            raise ConfigError(
                f"{network.__name__} has no field {field!r}{nearest(field, known)}; its fields are "
                f"{', '.join(sorted(known))}."
            )
    return network(**fields | overrides)
