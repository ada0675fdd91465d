"""The order of activation: BatchNorm and ReLU after the weights, after the sum, or before the weights.

    python main.py --config=configs/sweeps/activation_order.py --workdir=runs/activation_order

Scales: digits (default) and cifar10 (He et al. 2016, table 2: 110 layers, and 164 in bottlenecks).
"""

from resnet_jax.configs import cifar10 as cifar10_config
from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep

ORDERS = ("original", "bn_after_addition", "relu_before_addition", "relu_preactivation", "preactivation")


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10})
    return sweep(
        base,
        variants,
        title=f"Order of activation, BatchNorm and sum ({scale})",
        question="Where do BatchNorm and ReLU belong?",
        source="He et al. 2016 (arXiv:1603.05027), figure 4 and table 2",
        finding="Whatever stands on the shortcut's path harms; BatchNorm and ReLU before the weights are best.",
        axis="order",
    )


def digits():
    """Thirty-two layers, shortcut A."""
    return scales.digits(), variants("cifar_resnet32", "")


def cifar10():
    """110 layers in basic blocks and 164 in bottlenecks."""
    base = cifar10_config.get_config("preact_resnet110")
    return base, [
        variant for depth in (110, 164) for variant in variants(f"cifar_preact_resnet{depth}", f"{depth}-layers")
    ]


def variants(network, series):
    """One network in each order."""
    return [
        Variant(
            label=f"{order}{'_' + series if series else ''}",
            fields={"model.name": network, "model.overrides.activation_order": order},
            series=series,
            published=published(network, order),
        )
        for order in ORDERS
    ]


def published(network, order):
    """The row of what was published; the listed networks have the order that the paper proposes."""
    if not network.startswith("cifar_preact"):
        return ""
    return network if order == "preactivation" else f"{network} activation_order={order}"
