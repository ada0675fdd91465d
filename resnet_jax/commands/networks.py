"""What the verbs that take a network have in common: its fields on the command line."""

import argparse
import ast
from typing import Any

from resnet_jax.config import network_fields
from resnet_jax.errors import ConfigError, nearest


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
