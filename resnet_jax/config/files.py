"""Configs from config files and from the `config.json` of runs, and the names of fields on the command line."""

import importlib.util
import json
import re
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.config.derived import RENAMED, default_config, flat, upgraded
from resnet_jax.errors import ConfigError, UserError, nearest
from resnet_jax.lookup import importable_from, is_import, lookup
from resnet_jax.run.files import read_json
from resnet_jax.run.identity import flattened

CONFIGS = Path(__file__).parents[1] / "configs"


def config_file(name: str) -> Path:
    """Return the config file that is meant: a path, or one of the project's, as "digits" or "configs/digits.py".

    Raises ConfigError, with the nearest name, where there is none.
    """
    if Path(name).is_file():
        return Path(name)
    files = {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in sorted(CONFIGS.rglob("*.py"))}
    own = Path(name).with_suffix("").as_posix().removeprefix("configs/")
    if own in files:
        return files[own]
    known = [file for file in files if not file.endswith(("__init__", "recipes", "scales"))]
    alone = ", ".join(file for file in known if "/" not in file)
    raise ConfigError(
        f"there is no config file {name}{nearest(own, known)}; the project's are {alone} and sweeps/NAME."
    )


def read_config(named: str) -> ConfigDict:
    """Return what `get_config` of a file returns: of FILE, or of FILE:ARGUMENT with this argument.

    FILE is a path or the name of one of the project's configs, as for `config_file`. Raises ConfigError, with the file
    and the line, if it returns no config or raises an error.
    """
    name, colon, argument = named.partition(":")
    file = str(config_file(name))
    importable_from(Path(file).parent)
    loader = SourceFileLoader("config", file)
    spec = importlib.util.spec_from_file_location("config", file, loader=loader)
    assert spec is not None  # as a loader is given
    module = sys.modules["config"] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} has no function get_config, which returns the config.")
        config = module.get_config(argument) if colon else module.get_config()
    except UserError:
        raise
    except Exception as error:  # A config file is the user's code and may raise anything.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        place = f"{file}, line {line}" if line else named
        raise ConfigError(f"{place}: {what_is_wrong(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{file}: get_config returns {type(config).__name__} and must return a config: start from "
            "resnet_jax.config.default_config()."
        )
    if missing := [group for group in default_config() if group not in config and "base" not in config]:
        raise ConfigError(
            f"{file}: get_config returns a config without {', '.join(missing)}: start from "
            "resnet_jax.config.default_config()."
        )
    return config


def what_is_wrong(error: Exception) -> str:
    """Return an error of a config file as one line; for a field's earlier name, its present one."""
    text = " ".join(str(error).split())
    if isinstance(error, AttributeError | KeyError):
        for old, new in RENAMED.items():
            if re.search(rf"""["']{old.rpartition(".")[2]}["']""", text):
                return f"{old} is now called {new}: use that name."
    return f"{type(error).__name__}: {text}"


def run_config(file: Path) -> ConfigDict:
    """Return the config in a run's `config.json`, also of an earlier version.

    Raises ConfigError if it is damaged, or has fields that this version does not have.
    """
    try:
        fields = flattened(upgraded(read_json(file)))
    except (AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged: restore it, or choose another --workdir.") from error
    config = default_config()
    for name, value in fields.items():
        *groups, field = name.split(".")
        try:
            group: Any = config
            for name_of_group in groups:
                group = group[name_of_group]
            if value is not None or field in group:
                group[field] = as_tuples(value)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{file} sets {name} to {json.dumps(value)[:80]}, which this version does not have: name a config by "
                "--config."
            ) from error
    return config


# Fields that name something of the project, or as "module:name" the user's own code.
DOORS = (
    *("model.name", "model.overrides.block", "data.source", "augment.transforms", "training.loss", "optimizer.name"),
    *("schedule.name", "evaluation.metrics", "logging.loggers"),
)


def own_code(config: ConfigDict) -> set[str]:
    """Return the names in a config that would import the user's code."""
    values = dict(flat(config))
    found = (values.get(name) or () for name in DOORS)
    names = (name for value in found for name in (value if isinstance(value, tuple) else (value,)))
    return {name for name in names if is_import(name) and not name.startswith("tfds:")}


def import_network(config: ConfigDict) -> None:
    """Import the user's network and block that a config names, so that weights may name them too."""
    values = dict(flat(config))
    for kind, field in (("network", "model.name"), ("block", "model.overrides.block")):
        if is_import(name := values.get(field) or ""):
            lookup(kind, name, {})


def as_tuples(value: Any) -> Any:
    """Return a JSON value with tuples in the place of lists, as configs have them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def check_names(config: ConfigDict, names: list[str]) -> None:
    """Raise ConfigError for the first of some flags, such as "config.training.epochs", that names no field.

    The message gives the field that is meant: the present name of a renamed one, one of that name in another group or
    of a sweep's base, or the nearest.
    """
    fields = [field for field, _ in flat(config)]
    for name in (name.partition(".")[2] for name in names):
        base = "base." if name.startswith("base.") else ""
        if new := RENAMED.get(name.removeprefix(base)):
            raise ConfigError(f"{name} is now called {base}{new}: use that name.")
        group, parts = config, name.split(".")
        for part in parts:
            if isinstance(group, ConfigDict) and part in group:
                group = group[part]
                continue
            meant = [f"base.{name}"] if f"base.{name}" in fields else []
            close = nearest(part, group if isinstance(group, ConfigDict) else ())
            if part == parts[-1] or not close:
                meant = meant or [field for field in fields if field.split(".")[-1] == parts[-1]]
            if meant:
                raise ConfigError(f"the config has no field {name}, did you mean {' or '.join(meant)}?")
            raise ConfigError(
                f"the config has no field {part!r}{close or '; python main.py --help describes all of them.'}"
            )
