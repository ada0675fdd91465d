"""What follows from the schema: the ConfigDict with its locked types, the checks, and the typed config."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.config.fields import Field, fields_of
from resnet_jax.config.schema import Config
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.models.registry import NETWORKS

GROUPS: dict[str, Any] = typing.get_type_hints(Config)
FIELDS = fields_of(GROUPS)  # by dotted name, in the schema's order; without those of networks and rules

# Fields that may differ between two starts of one run: they change how it is observed, kept and distributed, not what
# it learns.
MAY_CHANGE = tuple(name for name, field in FIELDS.items() if field.may_change)

# Arguments of Optax's optimizers by type, besides the fields of the group.
OPTIMIZER_ARGUMENTS = {
    float: (
        *("adam_b1", "adam_b2", "adam_eps_root", "adam_learning_rate", "adam_weight_decay", "alpha", "b1", "b2", "b3"),
        *("beta", "beta3", "clip_threshold", "clipping_threshold", "consistent_rms", "decay", "decay_rate", "eps"),
        *("eps_root", "estim_lr0", "estim_lr_coef", "eta", "eta_minus", "eta_plus", "gamma", "init_estim_sq_dist"),
        *("initial_accumulator_value", "initial_scale", "lower_bound", "max_step_size", "min_norm", "min_step_size"),
        *("momentum", "optimism", "rho", "scale", "threshold", "trust_coefficient", "weight_lr_power"),
    ),
    int: (
        *("decay_offset", "memory_size", "min_dim_size_to_factor", "ns_steps", "print_win_rate_every_n_steps", "rank"),
        *("seed", "update_interval", "update_proj_gap", "warmup_steps"),
    ),
    bool: (
        *("adapt_lower_bound", "adaptive", "bias_correction", "bias_correction_mu", "bias_correction_nu", "centered"),
        *("eps_in_sqrt", "factored", "multiply_by_parameter_scale", "nesterov", "safeguard_warmup"),
        *("scale_init_precond", "use_clipping", "verbose"),
    ),
    str: ("accumulator_dtype", "dtype_momentum", "mu_dtype", "preconditioning", "state_dtype"),
    tuple: ("betas", "ns_coeffs"),
}

PLAIN = (int, float, bool, str, tuple)  # types of the network's fields that a config can set

RENAMED = {field.was: name for name, field in FIELDS.items() if field.was}  # earlier name to present name


def default_config() -> ConfigDict:
    """Return a config of all fields, with locked names and types: what a config file starts from."""
    config: Any = ConfigDict({name: {} for name in GROUPS})
    for name, field in FIELDS.items():
        group, key = name.split(".")
        config[group][key] = placeholder(field.base_type) if field.default is None else field.default
    config.model.overrides = network_fields()
    config.optimizer.arguments = _unset(ARGUMENTS)
    return config.lock()


def network_fields() -> ConfigDict:
    """Return every field of every registered network class, typed and unset."""
    return _unset(OVERRIDES)


def _unset(fields: Mapping[str, Field]) -> ConfigDict:
    return ConfigDict({name.rpartition(".")[2]: placeholder(field.base_type) for name, field in fields.items()})


def _overrides() -> dict[str, Field]:
    """Return the fields of the registered network classes that a config can override, by dotted name."""
    found: dict[str, Field] = {}
    networks = [entry[0] for entry in NETWORKS.values() if entry]
    for network in dict.fromkeys(networks):
        meanings = _attributes(network.__doc__ or "")
        for stated in dataclasses.fields(network):
            # A class can be given by its name too, and a config has names.
            kind = str if isinstance(stated.type, types.UnionType) else stated.type
            if stated.name not in ("name", "parent") and (typing.get_origin(kind) or kind) in PLAIN:
                name = f"model.overrides.{stated.name}"
                found.setdefault(name, Field(name=name, type=kind, default=None, meaning=meanings[stated.name]))
    return found


def _attributes(text: str) -> dict[str, str]:
    """Return what the `Attributes:` section of a docstring says of each."""
    section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    entries = re.findall(r"^      ([\w, ]+): (.*(?:\n        .*)*)", section[1] if section else "", re.MULTILINE)
    sentence = {names: f"{meaning[0].upper()}{meaning[1:]}" for names, meaning in entries}
    return {name: " ".join(meaning.split()) for names, meaning in sentence.items() for name in names.split(", ")}


def _arguments() -> dict[str, Field]:
    """Return the arguments of optimizers that a config can set, by dotted name."""
    return {
        f"optimizer.arguments.{name}": Field(
            name=f"optimizer.arguments.{name}",
            type=tuple[float, ...] if kind is tuple else kind,
            default=None,
            meaning=f"`{name}` of the optimizers that have it.",
        )
        for kind, names in OPTIMIZER_ARGUMENTS.items()
        for name in names
    }


OVERRIDES, ARGUMENTS = _overrides(), _arguments()


def check_config(config: ConfigDict) -> None:
    """Raise ConfigError for a field that nothing reads, or a value that no run can have, naming its field."""
    known = FIELDS | OVERRIDES | ARGUMENTS
    values = dict(flat(config))
    for name, value in values.items():
        if name in RENAMED:
            raise ConfigError(f"{name} is now called {RENAMED[name]}: use that name.")
        if name not in known:
            raise ConfigError(f"the config has a field {name}, which nothing reads{nearest(name, known)}: remove it.")
        known[name].check(value)
    for name, field in FIELDS.items():
        other = FIELDS[field.counts_as] if field.counts_as else None
        if other and values[name] != field.default and values[other.name] != other.default:
            raise ConfigError(
                f"{name} and {other.name} are both set: set {other.name} to {other.default} to count in steps, or "
                f"{name} to {field.default} to count in epochs."
            )


def typed_config(config: ConfigDict) -> Config:
    """Return a config as immutable objects with typed attributes. Raises ConfigError as `check_config` does."""
    check_config(config)
    groups: dict[str, dict[str, Any]] = to_dict(config)
    return Config(**{name: kind(**groups[name]) for name, kind in GROUPS.items()})


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Return the config as nested dicts of JSON values; overrides and arguments that are not set are left out."""
    plain = config.to_dict()
    for group, fields in (("model", "overrides"), ("optimizer", "arguments")):
        plain[group][fields] = {name: value for name, value in plain[group][fields].items() if value is not None}
    return plain


def upgraded(config: Any) -> Any:
    """Return the content of a `config.json` with the fields of this version.

    A field has its present name, and one that is missing, because it is newer than the run, its default.
    """
    if not isinstance(config, dict):
        return config
    config = {group: dict(fields) if isinstance(fields, dict) else fields for group, fields in config.items()}
    for name, field in FIELDS.items():
        group, key = name.split(".")
        fields = config.setdefault(group, {})
        if isinstance(fields, dict):
            earlier = fields.pop(field.was.split(".")[1], None) if field.was else None
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            fields.setdefault(key, default if earlier is None else earlier)
    return config


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
