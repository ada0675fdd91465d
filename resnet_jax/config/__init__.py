"""The config of a run: `schema` states every field, and all else follows from it.

A config file starts from `default_config()`, or from a recipe that did, and sets what differs. The fields are locked
and typed: an unknown field, or a value of another type, is refused.
"""

from resnet_jax.config.derived import (
    ARGUMENTS,
    FIELDS,
    MAY_CHANGE,
    OPTIMIZER_ARGUMENTS,
    OVERRIDES,
    RENAMED,
    check_config,
    default_config,
    flat,
    network_fields,
    to_dict,
    typed_config,
    upgraded,
)
from resnet_jax.config.schema import Config

__all__ = [
    "ARGUMENTS",
    "FIELDS",
    "MAY_CHANGE",
    "OPTIMIZER_ARGUMENTS",
    "OVERRIDES",
    "RENAMED",
    "Config",
    "check_config",
    "default_config",
    "flat",
    "network_fields",
    "to_dict",
    "typed_config",
    "upgraded",
]
