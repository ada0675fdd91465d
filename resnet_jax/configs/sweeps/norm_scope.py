"""The scope of BatchNorm: over how many images it takes its statistics.

    export XLA_FLAGS=--xla_force_host_platform_device_count=8
    python main.py --config=configs/sweeps/norm_scope.py --workdir=runs/norm_scope

It needs 8 devices, of which a CPU makes as many as the flag says. Scales: digits (default; 64 images a step), cifar10
(128) and imagenet (256).
"""

from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

DEVICES = 8


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10, "imagenet": imagenet})
    return sweep(
        base,
        variants,
        title=f"Scope of BatchNorm on {DEVICES} devices ({scale})",
        question="Over how many images should BatchNorm take its statistics?",
        source="Wu and He 2018 (arXiv:1803.08494), figure 1",
        finding="Below 16 images a statistic the error of BatchNorm grows fast.",
        axis="images a statistic",
    )


def digits():
    """Fourteen layers."""
    return prepared(scales.digits())


def cifar10():
    """Twenty layers."""
    return prepared(scales.cifar10())


def imagenet():
    """Fifty layers."""
    return prepared(scales.imagenet("resnet50"))


def prepared(base):
    """All scopes of 8 devices: each device for itself, groups of 2 and 4, and all together."""
    base.parallel.devices = DEVICES
    share = base.training.batch_size // DEVICES
    return base, [
        Variant(
            label=f"images{share * group}",
            fields={"parallel.norm_scope": scope, "parallel.norm_group": group if scope == "group" else 1},
            x=share * group,
        )
        for scope, group in (("local", 1), ("group", 2), ("group", 4), ("global", DEVICES))
    ]
