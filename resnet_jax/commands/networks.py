"""What the verbs that take a network have in common: which one it is, and its fields."""

import argparse
import ast
from pathlib import Path
from typing import Any

import flax.linen as nn

from resnet_jax.config import network_fields
from resnet_jax.config.files import import_network, read_config
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lab.sweep import is_sweep, trials
from resnet_jax.models.registry import create_model
from resnet_jax.weights import Variables, load_weights
from resnet_jax.weights.presets import Preset


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--config`, `--average` and `--set`."""
    parser.add_argument(
        "--config", metavar="FILE", help="the config file with your own network or block, if it has one"
    )
    parser.add_argument("--average", action="store_true", help="use the moving averages of a run")
    add_fields_argument(parser)


def add_fields_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--set`."""
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="a field of the network, such as cardinality=8",
    )


def overrides(assignments: list[str]) -> dict[str, Any]:
    """Return the fields that `--set` names, with their values.

    Raises ConfigError for what is no assignment, for an unknown field, naming the nearest, and for a value of another
    type.
    """
    fields, given = network_fields(), {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes FIELD=VALUE, such as cardinality=8, and not {assignment!r}.")
        if name not in fields:
            raise ConfigError(f"networks have no field {name!r}{nearest(name, fields)}; resnet_jax/models/ has them.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            fields[name] = value
        except TypeError as error:
            raise ConfigError(
                f"the field {name} cannot be {text}: it takes {fields.get_type(name).__name__}."
            ) from error
        given[name] = fields[name]
    return given


def import_code(file: str | None) -> None:
    """Import the networks and blocks that the config file of a run or a sweep names; nothing for None.

    Raises ConfigError if the file or the code cannot be imported.
    """
    if file is None:
        return
    config = read_config(file)
    for each in [trial.config for trial in trials(config)] if is_sweep(config) else [config]:
        import_network(each)


def loaded(model: nn.Module, source: str | Path, preset: Preset | None, average: bool) -> Variables:
    """Return the weights of a network, for images as the weights' preset has them, if there is one."""
    image: dict[str, Any] = dict(channels=len(preset.mean), size=preset.size) if preset else {}
    return load_weights(model, source, average=average, **image)


def chosen_network(name: str | None, preset: Preset | None, assignments: list[str]) -> tuple[str, nn.Module]:
    """Return the network of weights, by name and as a module: `name`, or that of the weights' preset.

    Raises ConfigError if neither says which one it is, or if `name` or a field of `--set` is unknown.
    """
    name = name or (preset.network if preset else None)
    if name is None:
        raise ConfigError("the weights do not say of which network they are: name it by --model.")
    fields = preset.overrides if preset and preset.network == name else {}
    return name, create_model(name, **fields | overrides(assignments))
