"""A CIFAR-10 network in ten epochs."""

from configs import recipes


def get_config(name: str = "resnet20"):
    """Return the config of `cifar_NAME`."""
    config = recipes.cifar_short(epochs=10.0)
    config.model.name = f"cifar_{name}"
    return config
