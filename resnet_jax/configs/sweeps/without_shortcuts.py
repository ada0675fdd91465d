"""Groups with and without shortcuts.

    python main.py --config=configs/sweeps/without_shortcuts.py --workdir=runs/without_shortcuts

Scales: digits (default), cifar10 and imagenet (Xie et al. 2017, table 5).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Groups with and without shortcuts ({scale})",
        question="Are residual connections and groups two gains, or one?",
        source="Xie et al. 2017 (arXiv:1611.05431), table 5",
        finding="Without shortcuts both networks lose, and the one with groups loses less: they are two gains.",
        axis="shortcut",
    )


def digits():
    """Twenty layers in bottlenecks, half as wide as ResNeXt-29."""
    base = scales.digits(stage_widths=(32, 64, 128), stem_width=32)
    return base, variants({"ResNet": "cifar_resnext20_1x64d", "ResNeXt": "cifar_resnext20_8x14d"})


def cifar10():
    """ResNeXt-29."""
    return scales.cifar10_resnext(), variants({"ResNet": "cifar_resnext29_1x64d", "ResNeXt": "cifar_resnext29_8x14d"})


def imagenet():
    """Fifty layers."""
    base = scales.imagenet("resnet50", "resnext")
    return base, variants({"ResNet": "resnext50_1x64d", "ResNeXt": "resnext50_32x4d"}, published=True)


def variants(networks, published=False):
    """Each network with and without its shortcuts."""
    return [
        Variant(
            label=f"{series}_{'with' if shortcut == 'B' else 'without'}",
            fields={"model.name": name, "model.overrides.shortcut": shortcut},
            series=series,
            published=(name if shortcut == "B" else f"{name} shortcut=none") if published else "",
        )
        for series, name in networks.items()
        for shortcut in ("B", "none")
    ]
