"""DenseNet against ResNet at one cost: concatenations or sums.

    python main.py --config=configs/sweeps/densenet.py --workdir=runs/densenet

Scales: digits (default), cifar10 and imagenet (Huang et al. 2017, figure 3).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"DenseNet against ResNet ({scale})",
        question="At one cost, is it better to add what earlier layers made, or to keep all of it?",
        source="Huang et al. 2017 (arXiv:1608.06993), table 2 and figure 3",
        finding="DenseNet needs half of the multiply-adds and a third of the parameters for the same error.",
        axis="network",
    )


def digits():
    """Two ResNets, and the DenseNets whose multiply-adds come nearest."""
    pairs = {"cifar_resnet20": "cifar_densenet_bc34_10", "cifar_resnet32": "cifar_densenet_bc34_13"}
    return scales.digits(), variants(pairs)


def cifar10():
    """ResNet-56 and 110, and the DenseNets whose multiply-adds come nearest."""
    pairs = {"cifar_resnet56": "cifar_densenet_bc58_12", "cifar_resnet110": "cifar_densenet_bc94_12"}
    return scales.cifar10(), variants(pairs)


def imagenet():
    """ResNet-34 and 50, and the DenseNets whose multiply-adds come nearest."""
    pairs = {"resnet34": "densenet169", "resnet50": "densenet201"}
    return scales.imagenet("resnet34"), variants(pairs)


def variants(pairs):
    """Each pair, from the cheapest on."""
    listed = ("cifar_resnet56", "cifar_resnet110")
    return [
        Variant(
            label=name.removeprefix("cifar_"),
            fields={"model.name": name},
            series=series,
            published=name if name in listed or not name.startswith("cifar") else "",
        )
        for pair in pairs.items()
        for series, name in zip(("ResNet", "DenseNet"), pair, strict=True)
    ]
