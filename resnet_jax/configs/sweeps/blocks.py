"""Blocks: ResNet-18 and 34 against plain networks of the same depth, and ResNet-34 turned into bottlenecks.

    python main.py --config=configs/sweeps/blocks.py --workdir=runs/blocks
    python main.py --config=configs/sweeps/blocks.py:cifar10 --workdir=runs/blocks_cifar10

These are exercises of most textbooks. The networks are ImageNet's with the stem for small images: stages of 2, 2, 2, 2
or 3, 4, 6, 3 blocks. ResNet-34 with bottlenecks in place of its basic blocks is ResNet-50. Scales: digits (default;
an eighth of the width) and cifar10.
"""

from resnet_jax.configs import recipes
from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

NETWORKS = {
    "plain-18": ("plain18", {}),
    "resnet-18": ("resnet18", {}),
    "plain-34": ("plain34", {}),
    "resnet-34": ("resnet34", {}),
    "bottlenecks-34": ("resnet34", {"block": "bottleneck"}),
}


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10})
    return sweep(
        base,
        variants,
        title=f"Blocks of ResNet-18 and 34 ({scale})",
        question="What do shortcuts give ResNet-18 and 34, and what do bottlenecks give ResNet-34?",
        source="He et al. 2015 (arXiv:1512.03385), tables 1 and 2, figure 4",
        finding="Shortcuts help the deeper network more; bottlenecks make a deeper network at a similar cost.",
        axis="network",
    )


def digits():
    """An eighth of the width."""
    base = scales.digits(stage_widths=(8, 16, 32, 64), stem="cifar", stem_width=8)
    return base, variants()


def cifar10():
    """The whole width, by the recipe of He et al. 2015."""
    return scales.changed(recipes.cifar_he2015(), "resnet18", {"stem": "cifar"}), variants()


def variants():
    """The five networks."""
    return [
        Variant(
            label=label,
            fields={"model.name": name} | {f"model.overrides.{field}": value for field, value in fields.items()},
        )
        for label, (name, fields) in NETWORKS.items()
    ]
