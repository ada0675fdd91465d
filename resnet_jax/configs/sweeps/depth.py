"""The depth of residual networks.

    python main.py --config=configs/sweeps/depth.py --workdir=runs/depth

Scales: digits (default), cifar10 (He et al. 2015, table 6) and imagenet (torchvision's weights).
"""

from resnet_jax.configs import cifar10 as cifar10_config
from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Depth of residual networks ({scale})",
        question="How much does depth gain a residual network, and where does it end?",
        source="He et al. 2015 (arXiv:1512.03385), table 6",
        finding="The error falls up to 110 layers; 1202 train as well, and test worse.",
        axis="layers",
    )


def digits():
    """8 to 44 layers."""
    return scales.digits(), variants("cifar_resnet", (8, 14, 20, 32, 44))


def cifar10():
    """20 to 1202 layers; the deepest two warm up."""
    made = variants("cifar_resnet", (20, 32, 44, 56, 110, 1202))
    warm = dict(cifar10_config.get_config("resnet110").schedule)
    for variant in made:
        if variant.x >= 110:
            variant.fields.update({f"schedule.{name}": warm[name] for name in ("warmup_steps", "warmup_start")})
    return scales.cifar10(), made


def imagenet():
    """18 to 152 layers."""
    return scales.imagenet("resnet18"), variants("resnet", (18, 34, 50, 101, 152))


def variants(name, depths):
    """The networks of a family."""
    return [
        Variant(label=f"layers{depth}", fields={"model.name": f"{name}{depth}"}, x=depth, published=f"{name}{depth}")
        for depth in depths
    ]
