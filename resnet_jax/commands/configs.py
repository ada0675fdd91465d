"""What the verbs that take a config have in common: the config of a run by the name of its file."""

from ml_collections import ConfigDict

from resnet_jax.config.files import read_config
from resnet_jax.errors import ConfigError


def load(name: str) -> ConfigDict:
    """Return the config of "FILE" or "FILE:ARGUMENT", such as "configs/resnet50.py:rsb_a2".

    Raises ConfigError where there is no such file, or where it gives no config of a run.
    """
    config = read_config(name)
    if "training" not in config:
        raise ConfigError(f"{name} is no config of a run: name one that trains a network.")
    return config
