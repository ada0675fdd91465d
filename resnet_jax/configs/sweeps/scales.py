"""The scales of the sweeps: digits in minutes on a laptop, CIFAR-10 and ImageNet by the papers' recipes."""

from collections.abc import Callable

from ml_collections import ConfigDict

from resnet_jax.configs import digits as digits_config
from resnet_jax.configs import recipes
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lab.sweep import Variant


def digits(epochs: float = 15.0, **overrides) -> ConfigDict:
    """Scikit-learn's digits: 1,438 images of 8x8 pixels to train on and 359 to test with, in `epochs` epochs.

    The recipe is that of `configs/digits.py`, shorter, and with a lower rate and a longer warm-up, so that networks of
    56 layers train too. Test errors are within a few images of each other here: the training loss tells more.
    """
    config = digits_config.get_config()
    config.training.epochs = epochs
    config.optimizer.learning_rate = 0.03
    config.schedule.warmup_epochs = 2.0
    config.evaluation.every_epochs = 3
    config.checkpoint.every_epochs = 1000  # the last one only
    return changed(config, "cifar_resnet20", overrides)


def cifar10() -> ConfigDict:
    """CIFAR-10 by the recipe of He et al. 2015; the variants name the networks."""
    return recipes.cifar_he2015()


def cifar10_resnext() -> ConfigDict:
    """CIFAR-10 by the recipe of Xie et al. 2017."""
    return recipes.cifar_resnext()


def imagenet(network: str, recipe: str = "torchvision_v1", **overrides) -> ConfigDict:
    """ImageNet by a recipe of `configs/recipes.py`."""
    return changed(recipes.imagenet(recipe, network), network, overrides)


def changed(config: ConfigDict, network: str, overrides: dict) -> ConfigDict:
    """Return a config with another network, and fields of it."""
    config.model.name = network
    for field, value in overrides.items():
        config.model.overrides[field] = value
    return config


def pick(
    scale: str, scales: dict[str, Callable[[], tuple[ConfigDict, list[Variant]]]]
) -> tuple[ConfigDict, list[Variant]]:
    """Return what a sweep has for a scale, which is given after a colon. Raises ConfigError for a scale it has not."""
    if scale not in scales:
        raise ConfigError(f"this sweep has no scale {scale!r}{nearest(scale, scales)}: use one of {', '.join(scales)}.")
    return scales[scale]()
