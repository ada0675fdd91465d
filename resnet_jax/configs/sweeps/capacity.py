"""How a network should grow: in cardinality, in width, or in depth.

    python main.py --config=configs/sweeps/capacity.py --workdir=runs/capacity

Scales: digits (default), cifar10 (Xie et al. 2017, figure 7 and table 7: ResNeXt-29) and imagenet (table 4: twice the
cost of ResNet-101).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep
from resnet_jax.models.flops import matched_base_width


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Growing in cardinality, width or depth ({scale})",
        question="How is more cost spent best: on more groups, wider ones, or more layers?",
        source="Xie et al. 2017 (arXiv:1611.05431), table 4, figure 7 and table 7",
        finding="More groups lower the error more than more width or more depth at the same cost.",
        axis="cost (1x64d = 1)",
    )


def digits():
    """Twenty layers in bottlenecks, a quarter as wide as ResNeXt-29: groups of 64 channels have 16 here."""
    return scales.digits(stage_widths=(16, 32, 64), stem_width=16), growing("cifar_resnext20", (1, 2, 4))


def cifar10():
    """ResNeXt-29."""
    return scales.cifar10_resnext(), growing("cifar_resnext29", (1, 2, 4, 8, 16))


def growing(network, costs):
    """The same costs by more groups of 64 channels, and by one wider group."""
    published = ("cifar_resnext29_8x64d", "cifar_resnext29_16x64d")
    made = []
    for cost in costs:
        names = {"cardinality": f"{cost}x64d", "width": f"1x{matched_base_width(1, cost)}d"}
        for series, kind in names.items():
            if cost == 1 and series == "width":
                continue  # the same network
            name = f"{network}_{kind}"
            made.append(
                Variant(
                    label=kind,
                    fields={"model.name": name},
                    series=series,
                    x=cost,
                    published=name if name in published else "",
                )
            )
    return made


def imagenet():
    """ResNet-101 and what costs twice as much."""
    kinds = {
        "resnet101": ("resnext101_1x64d", "reference", 1),
        "resnext101_32x4d": ("resnext101_32x4d", "reference", 1),
        "deeper": ("resnet200", "depth", 2),
        "wider": ("resnext101_1x100d", "width", 2),
        "2x64d": ("resnext101_2x64d", "cardinality", 2),
        "64x4d": ("resnext101_64x4d", "cardinality", 2),
    }
    made = [
        Variant(label=label, fields={"model.name": name}, series=series, x=cost, published=name)
        for label, (name, series, cost) in kinds.items()
    ]
    return scales.imagenet("resnet101", "resnext"), made
