"""Degradation: plain and residual networks by depth.

    python main.py --config=configs/sweeps/degradation.py --workdir=runs/degradation
    python main.py --config=configs/sweeps/degradation.py:cifar10 --workdir=runs/degradation_cifar10

Scales: digits (default), cifar10 (He et al. 2015, figure 6) and imagenet (figure 4, table 2).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

KINDS = {"plain": "none", "residual": "A"}


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Degradation: plain against residual networks ({scale})",
        question="Does a deeper plain network train worse, and a deeper residual one better?",
        source="He et al. 2015 (arXiv:1512.03385), figures 1, 4 and 6, table 2",
        finding="Deeper plain networks have a higher training error; with shortcuts, deeper ones have a lower one.",
        axis="layers",
    )


def digits():
    """8 to 56 layers."""
    return scales.digits(), variants((8, 20, 32, 56))


def cifar10():
    """20 to 56 layers; the plain networks' errors are drawn in the paper and not printed."""
    return scales.cifar10(), variants((20, 32, 44, 56))


def imagenet():
    """18 and 34 layers, shortcut A; the paper's errors are those of 10 crops."""
    names = {
        kind: {depth: f"{name}{depth}{' shortcut=A' if name == 'resnet' else ''}" for depth in (18, 34)}
        for kind, name in (("plain", "plain"), ("residual", "resnet"))
    }
    made = [
        Variant(
            label=f"{kind}-{depth}",
            fields={"model.name": f"resnet{depth}", "model.overrides.shortcut": KINDS[kind]},
            series=kind,
            x=depth,
            published=names[kind][depth],
        )
        for kind in KINDS
        for depth in (18, 34)
    ]
    return scales.imagenet("resnet18"), made


def variants(depths):
    """Both kinds at each depth."""
    return [
        Variant(
            label=f"{kind}-{depth}",
            fields={"model.name": f"cifar_resnet{depth}", "model.overrides.shortcut": shortcut},
            series=kind,
            x=depth,
            published=f"cifar_resnet{depth}" if kind == "residual" else "",
        )
        for kind, shortcut in KINDS.items()
        for depth in depths
    ]
