"""Shortcuts that are no identity: scaled, gated, projected or dropped.

    python main.py --config=configs/sweeps/identity.py --workdir=runs/identity

Scales: digits (default) and cifar10 (He et al. 2016, table 1: 110 layers; dropout there failed, with more than 20 %
error).
"""

from resnet_jax.configs import cifar10 as cifar10_config
from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

GATE = "model.overrides.shortcut_gate"
PATHS = {
    "identity": {},
    "constant": {GATE: "constant"},
    "exclusive": {GATE: "exclusive", "model.overrides.gate_bias": -6.0},
    "shortcut_only": {GATE: "shortcut_only", "model.overrides.gate_bias": -6.0},
    "projection": {"model.overrides.shortcut": "C"},
    "dropout": {GATE: "dropout"},
}
PUBLISHED = {
    "identity": "cifar_resnet110",
    "constant": "cifar_resnet110 shortcut_gate=constant",
    "exclusive": "cifar_resnet110 shortcut_gate=exclusive",
    "shortcut_only": "cifar_resnet110 shortcut_gate=shortcut_only",
    "projection": "cifar_resnet110 shortcut=C",
}


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10})
    return sweep(
        base,
        variants,
        title=f"Shortcuts that are no identity ({scale})",
        question="May anything but the identity stand on the shortcut's path?",
        source="He et al. 2016 (arXiv:1603.05027), figure 2 and table 1",
        finding="No: scaling, gating, 1x1 convolutions and dropout on the shortcut all raise the error.",
        axis="shortcut",
    )


def digits():
    """Thirty-two layers."""
    return scales.digits(), variants("cifar_resnet32", {})


def cifar10():
    """A hundred and ten layers."""
    return cifar10_config.get_config("resnet110"), variants("cifar_resnet110", PUBLISHED)


def variants(network, published):
    """One network with each path."""
    return [
        Variant(label=label, fields={"model.name": network, **fields}, published=published.get(label, ""))
        for label, fields in PATHS.items()
    ]
