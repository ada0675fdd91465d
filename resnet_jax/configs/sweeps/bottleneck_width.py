"""The width of a bottleneck's 3x3.

    python main.py --config=configs/sweeps/bottleneck_width.py --workdir=runs/bottleneck_width

Scales: digits (default), cifar10 and imagenet (ResNet-50; 128 is torchvision's wide_resnet50_2).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Width of the bottleneck ({scale})",
        question="What does the width of a bottleneck's 3x3 gain, with all other widths as they are?",
        source="Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 8",
        finding="Twice the width of the 3x3 gains two points on ImageNet, at 2.8 times the cost.",
        axis="base width (channels)",
    )


def digits():
    """Twenty layers in bottlenecks, a quarter as wide as ResNeXt-29."""
    base = scales.digits(stage_widths=(16, 32, 64), stem_width=16)
    return base, variants("cifar_resnext20_1x64d", (16, 32, 64, 128))


def cifar10():
    """Twenty-nine layers."""
    return scales.cifar10_resnext(), variants("cifar_resnext29_1x64d", (16, 32, 64, 128))


def imagenet():
    """Fifty layers."""
    published = {64: "resnet50", 128: "wide_resnet50_2"}
    return scales.imagenet("resnet50"), variants("resnet50", (32, 64, 96, 128), published)


def variants(network, widths, published=None):
    """A network with each base width."""
    return [
        Variant(
            label=f"width{width}",
            fields={"model.name": network, "model.overrides.base_width": width},
            x=width,
            published=(published or {}).get(width, ""),
        )
        for width in widths
    ]
