"""How a field names something: by a registered name, or as "package.module:name" in the user's own code."""

import importlib
from collections.abc import Mapping
from typing import Any

from resnet_jax.errors import ConfigError, nearest


def is_import(name: str) -> bool:
    """Return whether a name has the form "package.module:name"."""
    return ":" in name


def lookup(kind: str, name: str, registered: Mapping[str, Any]) -> Any:
    """Return what is registered under `name`, or what "package.module:name" imports.

    Args:
      kind: of thing, for the error: "block", "optimizer" and so on.
      name: a key of `registered`, or module and attribute with a colon between.
      registered: what the project has.

    Raises ConfigError if there is no such name, module or attribute, or if the module raises an error.
    """
    if not is_import(name):
        if name in registered:
            return registered[name]
        raise ConfigError(
            f"there is no {kind} {name!r}{nearest(name, registered)}: use one of {', '.join(sorted(registered))}, or "
            f'your own as "module:name".'
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ConfigError(f"the {kind} {name!r} cannot be imported: {error}.") from error
        raise ConfigError(
            f"the {kind} {name!r} names a module that cannot be found: put {module_name.split('.')[0]}.py beside the "
            "config file or on PYTHONPATH."
        ) from error
    except Exception as error:  # The module is the user's code and may raise anything.
        raise ConfigError(f"the {kind} {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        known = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{module_name} has no {attribute!r}{nearest(attribute, known)}.") from error
