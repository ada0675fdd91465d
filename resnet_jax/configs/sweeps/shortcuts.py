"""Shortcuts: none, zeros (A), projections where the shape changes (B), or projections everywhere (C).

    python main.py --config=configs/sweeps/shortcuts.py --workdir=runs/shortcuts

Scales: digits (default), cifar10 and imagenet (He et al. 2015, table 3).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

SHORTCUTS = ("none", "A", "B", "C")


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Shortcuts: none, A, B and C ({scale})",
        question="How much of the gain is the identity's, and how much the projections'?",
        source="He et al. 2015 (arXiv:1512.03385), table 3",
        finding="Any shortcut is far better than none; B is slightly better than A, and C than B.",
        axis="shortcut",
    )


def digits():
    """Thirty-two layers."""
    return scales.digits(), variants("cifar_resnet32")


def cifar10():
    """Fifty-six layers."""
    return scales.cifar10(), variants("cifar_resnet56")


def imagenet():
    """Thirty-four layers."""
    return scales.imagenet("resnet34"), variants("resnet34", plain="plain34")


def variants(network, plain=""):
    """One network with each shortcut."""
    published = {shortcut: f"{network} shortcut={shortcut}" for shortcut in SHORTCUTS}
    if network.startswith("cifar"):
        published = {"A": network}
    return [
        Variant(
            label=shortcut,
            fields={"model.name": network, "model.overrides.shortcut": shortcut},
            published=plain if shortcut == "none" else published.get(shortcut, ""),
        )
        for shortcut in SHORTCUTS
    ]
