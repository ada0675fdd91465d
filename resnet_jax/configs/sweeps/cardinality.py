"""Cardinality at one cost: few wide groups or many narrow ones.

    python main.py --config=configs/sweeps/cardinality.py --workdir=runs/cardinality

The base width is solved so that multiply-adds stay those of 1x64d. Scales: digits (default), cifar10 (ResNeXt-29) and
imagenet (Xie et al. 2017, table 3: ResNeXt-50; `imagenet101` is its other half).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep
from resnet_jax.models.flops import matched_base_width


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    kinds = {"digits": digits, "cifar10": cifar10, "imagenet": imagenet, "imagenet101": imagenet101}
    base, variants = scales.pick(scale, kinds)
    return sweep(
        base,
        variants,
        title=f"Cardinality against width at one cost ({scale})",
        question="At one cost, are few wide groups better or many narrow ones?",
        source="Xie et al. 2017 (arXiv:1611.05431), table 3 and figure 5",
        finding="The error falls as the cardinality grows: 22.2 % for 32x4d and 23.9 % for 1x64d, at equal cost.",
        axis="cardinality",
    )


def digits():
    """Twenty layers in bottlenecks, half as wide as ResNeXt-29."""
    return scales.digits(stage_widths=(32, 64, 128), stem_width=32), variants("cifar_resnext20", (1, 2, 4, 8))


def cifar10():
    """ResNeXt-29 at the cost of 1x64d."""
    return scales.cifar10_resnext(), variants("cifar_resnext29", (1, 2, 4, 8, 32))


def imagenet():
    """ResNeXt-50."""
    return scales.imagenet("resnet50", "resnext"), variants("resnext50", (1, 2, 4, 8, 32), "Xie")


def imagenet101():
    """ResNeXt-101."""
    return scales.imagenet("resnet101", "resnext"), variants("resnext101", (1, 2, 4, 8, 32), "Xie")


def variants(network, cardinalities, source=""):
    """A network with each cardinality, and the width that keeps the cost."""
    made = []
    for cardinality in cardinalities:
        kind = f"{cardinality}x{matched_base_width(cardinality)}d"
        name = f"{network}_{kind}"
        made.append(Variant(label=kind, fields={"model.name": name}, x=cardinality, published=name if source else ""))
    return made
