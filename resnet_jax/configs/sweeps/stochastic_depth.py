"""Stochastic depth: blocks that are dropped while a network trains.

    python main.py --config=configs/sweeps/stochastic_depth.py --workdir=runs/stochastic_depth

Scales: digits (default) and cifar10 (Huang et al. 2016, table 1: 110 layers, 500 epochs there and 164 here).
"""

from resnet_jax.configs import cifar10 as cifar10_config
from resnet_jax.configs.sweeps import scales
from resnet_jax.lab.sweep import Variant, sweep


def get_config(scale: str = "digits"):
    """Return the sweep at a scale."""
    base, variants = scales.pick(scale, {"digits": digits, "cifar10": cifar10})
    return sweep(
        base,
        variants,
        title=f"Stochastic depth ({scale})",
        question="Does it help to drop blocks while a network trains?",
        source="Huang et al. 2016 (arXiv:1603.09382), table 1 and figure 8",
        finding="Dropping the last block half of the time lowers the test error of 110 layers from 6.41 to 5.25 %.",
        axis="drop probability of the last block",
    )


def digits():
    """Thirty-two layers."""
    return scales.digits(), variants("cifar_resnet32", (0.0, 0.1, 0.2, 0.5))


def cifar10():
    """A hundred and ten layers."""
    return cifar10_config.get_config("resnet110"), variants("cifar_resnet110", (0.0, 0.2, 0.5), published=True)


def variants(network, probabilities, published=False):
    """A network with each probability; it grows linearly to that from the first block on."""
    return [
        Variant(
            label=f"drop{round(100 * probability)}",
            fields={"model.name": network, "model.overrides.stochastic_depth": probability},
            x=probability,
            published=f"{network} stochastic_depth={probability:g}" if published and probability in (0, 0.5) else "",
        )
        for probability in probabilities
    ]
