"""What the verbs that take a config have in common: a config file by its name, as `main.py` takes it."""

import importlib.util
import pathlib

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError, UserError
from resnet_jax.lookup import importable_from


def load(name: str) -> ConfigDict:
    """Return the config of "FILE" or "FILE:ARGUMENT", such as "configs/resnet50.py:rsb_a2".

    Raises ConfigError where there is no such file, or where it gives no config of a run.
    """
    file, _, argument = name.partition(":")
    if not pathlib.Path(file).is_file():
        raise ConfigError(f"there is no config file {file}; configs/ has those of the project.")
    importable_from(pathlib.Path(file).parent)
    spec = importlib.util.spec_from_file_location("named_config", file)
    if spec is None:
        raise ConfigError(f"{file} is no config file: those are written in Python, as configs/resnet50.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[argument] * bool(argument))
    except UserError:
        raise
    except Exception as error:  # A config file is the user's code and may raise anything.
        raise ConfigError(f"{name} cannot be read: {type(error).__name__}: {error}.") from error
    if "training" not in config:
        raise ConfigError(f"{name} is no config of a run: name one that trains a network.")
    return config
