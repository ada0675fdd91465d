"""Squeeze-and-excitation: how narrow its gates may be.

    python main.py --config=configs/sweeps/squeeze_excitation.py --workdir=runs/squeeze_excitation

Scales: digits (default), cifar10 and imagenet (Hu et al. 2018, table 10).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Squeeze-and-excitation by its reduction ({scale})",
        question="What do gates gain, and how narrow may they be?",
        source="Hu et al. 2018 (arXiv:1709.01507), table 10",
        finding="Gates gain a point; their width between a half and a sixteenth of the channels hardly matters.",
        axis="reduction",
    )


def digits():
    """Twenty layers; fewer than 8 units are never in a gate."""
    return scales.digits(), variants("cifar_resnet20", (0, 2, 4, 8))


def cifar10():
    """Fifty-six layers."""
    return scales.cifar10(), variants("cifar_resnet56", (0, 2, 4, 8))


def imagenet():
    """Fifty layers."""
    return scales.imagenet("resnet50"), variants("resnet50", (0, 2, 4, 8, 16, 32), published=True)


def variants(network, reductions, published=False):
    """A network with each reduction; 0 has no gates."""
    return [
        Variant(
            label=f"reduction{reduction}" if reduction else "none",
            fields={"model.name": network, "model.overrides.se_reduction": reduction},
            published=f"{network} se_reduction={reduction}" if published else "",
        )
        for reduction in reductions
    ]
