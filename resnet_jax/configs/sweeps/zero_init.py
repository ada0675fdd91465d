"""The last BatchNorm scale of a block: at 0, so that the block begins as its shortcut, or at 1.

    python main.py --config=configs/sweeps/zero_init.py --workdir=runs/zero_init

Scales: digits (default), cifar10 and imagenet (Goyal et al. 2017, table 2b: batches of 8,192).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"The last scale of a block at 0 or 1 ({scale})",
        question="Should a block begin as its shortcut, with the scale of its last BatchNorm at 0?",
        source="Goyal et al. 2017 (arXiv:1706.02677), section 5.1 and table 2b",
        finding="It eases the first steps of large batches, and gains 0.1 points there.",
        axis="layers",
    )


def digits():
    """Twenty and fifty-six layers."""
    return scales.digits(), variants("cifar_resnet", (20, 56))


def cifar10():
    """Twenty and fifty-six layers."""
    return scales.cifar10(), variants("cifar_resnet", (20, 56))


def imagenet():
    """Fifty layers, batches of 8,192 with five epochs of warm-up."""
    base = scales.imagenet("resnet50")
    base.training.batch_size = 8192
    base.schedule.warmup_epochs = 5.0
    base.schedule.warmup_start = 1 / 32
    return base, variants("resnet", (50,), published=True)


def variants(family, depths, published=False):
    """Each depth from both starts."""
    return [
        Variant(
            label=f"scale{1 - zero}_{depth}",
            fields={"model.name": f"{family}{depth}", "model.overrides.zero_init_last": bool(zero)},
            series=f"scale {1 - zero}",
            x=depth,
            published=f"{family}{depth} zero_init_last={bool(zero)}" if published else "",
        )
        for zero in (0, 1)
        for depth in depths
    ]
