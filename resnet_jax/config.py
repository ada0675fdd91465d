"""The config: every field there is, with its type, its default and what it means.

A config file starts from `default_config()`, or from a recipe that did, and sets what differs. The fields are locked
and typed: a field that is not here, or a value of another type, is refused.
"""

import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import operator
import sys
import traceback
import types
import typing
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.errors import ConfigError, UserError, nearest
from resnet_jax.lookup import importable_from
from resnet_jax.models.registry import NETWORKS
from resnet_jax.run.files import read_json
from resnet_jax.run.identity import flattened

# Fields that may differ between two starts of one run: they change how it is watched, kept and spread, not what it
# learns.
MAY_CHANGE = (
    "data.path",
    "data.workers",
    "training.log_every",
    "training.steps_per_dispatch",
    "evaluation.batch_size",
    "evaluation.metrics",
    "checkpoint",
    "logging",
    "parallel.devices",
    "parallel.coordinator",
    "parallel.hosts",
    "parallel.host",
    "parallel.heartbeat_seconds",
)


NAME_FIELDS = ("augment.transforms", "evaluation.metrics", "logging.loggers")  # tuples of names


def default_config() -> ConfigDict:
    """Return a config of all fields."""
    config = ConfigDict()

    config.model = ConfigDict()
    config.model.name = "cifar_resnet20"  # a name of `python -m resnet_jax models`, or "module:name"
    config.model.dtype = "float32"  # of the computation: float32, bfloat16 or float16 (with a loss scale)
    config.model.overrides = network_fields()  # any field of the network; None keeps the registered value

    config.data = ConfigDict()
    # digits, cifar10, cifar100, fashion_mnist, tfds:NAME, folder, archives, records, synthetic, or "module:name"
    config.data.source = "digits"
    config.data.path = placeholder(str)  # where the files are; None: the source's own place
    config.data.image_size = 32  # of streamed images (tfds, folder, archives, records) and of synthetic ones
    config.data.size_schedule = ()  # (epoch, size) pairs: training images have another size from that epoch on
    config.data.eval_size = placeholder(int)  # of streamed images in evaluation; None: image_size
    config.data.array_size = placeholder(int)  # to which images of the others are resized on the device; None: theirs
    config.data.num_classes = 1000  # of synthetic; the others know theirs
    config.data.train_fraction = placeholder(float)  # of the training images, drawn by training.seed; None: all
    config.data.mean = placeholder(tuple)  # per channel, of images scaled to 0..1; None: the source's
    config.data.std = placeholder(tuple)
    config.data.resize = 256  # short side before the central crop of evaluation
    config.data.crop_scale = (0.08, 1.0)  # area of the random resized crop, as a share of the image
    config.data.interpolation = "bilinear"  # of both crops: bilinear, bicubic or nearest, antialiased
    config.data.workers = placeholder(int)  # processes that decode; 0: threads; None: as the machine has cores

    config.augment = ConfigDict()
    config.augment.pad = 0  # pixels of padding before a random crop on the device
    config.augment.flip = False  # mirror half of the images
    config.augment.alternate_flip = False  # mirror an image in every other epoch; of images that lie in arrays
    config.augment.policy = ""  # of streamed images: trivial_augment_wide, rand_augment, or none
    config.augment.magnitude = 7.0  # of rand_augment, 0 to 10
    config.augment.layers = 2  # operations of rand_augment
    config.augment.color_jitter = 0.0  # greatest change of streamed images' brightness, contrast and saturation
    config.augment.lighting = 0.0  # deviation of PCA lighting, of streamed images
    config.augment.erase = 0.0  # probability that a rectangle is erased
    config.augment.repeats = 1  # how often an example is in a batch, each time augmented anew
    config.augment.mixup = 0.0  # Beta parameter; 0: none
    config.augment.cutmix = 0.0
    config.augment.transforms = ()  # further ones, "module:name" each: (image, rng) or (images, targets, key)

    config.training = ConfigDict()
    config.training.batch_size = 128  # over all devices and hosts
    config.training.epochs = 10.0
    config.training.steps = placeholder(int)  # if set, it counts and epochs do not
    config.training.seed = 0
    config.training.init_from = placeholder(str)  # weights file, run or RUN/checkpoints/STEP to start from or evaluate
    config.training.init_adapt = False  # give weights of other classes a new head; fit them to other image channels
    config.training.init_average = False  # take the moving averages of the run in init_from
    config.training.microbatches = 1  # parts of a batch whose gradients are accumulated
    config.training.loss = "cross_entropy"  # binary_cross_entropy, or "module:name"
    config.training.label_smoothing = 0.0
    config.training.ema_decay = 0.0  # of moving averages of parameters and statistics; 0: none are kept
    config.training.skip_nonfinite = 0  # most steps with an infinite or undefined gradient that are left out
    config.training.log_every = 50  # steps
    config.training.steps_per_dispatch = 0  # 0: log_every where data lies on a GPU or TPU, else 1

    config.optimizer = ConfigDict()
    config.optimizer.name = (
        "sgd"  # sgd, lars, lamb, adam, adamw, lion, muon, sam, schedule_free, optax.NAME or "module:name"
    )
    config.optimizer.learning_rate = 0.1  # for a batch of base_batch_size
    config.optimizer.base_batch_size = 0  # scales the rate to the batch; 0: it is not scaled
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decays = "all"  # all, all_but_norm, all_but_branch_norm or kernels: parameters that decay
    config.optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0: any
    config.optimizer.backbone_rate = 1.0  # learning rate of all but the head, as a share of the head's; 0: it is frozen
    config.optimizer.freeze_norm = False  # leave BatchNorm's scales and biases as they are
    config.optimizer.arguments = optimizer_arguments()  # any other argument of the rule; None keeps its default

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # constant, step, cosine, linear or "module:name"
    config.schedule.boundaries = ()  # epochs at which "step" multiplies by factor
    config.schedule.factor = 0.1
    config.schedule.warmup_epochs = 0.0
    config.schedule.warmup_start = 0.0  # first rate of the warm-up, as a share of the full one
    config.schedule.end = 0.0  # last rate of cosine and linear
    config.schedule.from_start = False  # they begin at step 0, and the warm-up hides their first epochs, as in timm
    config.schedule.by_epoch = False  # change the rate between epochs only

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 256
    config.evaluation.every_epochs = 1
    config.evaluation.flip = False  # average the logits of each image and of its mirror image
    config.evaluation.metrics = ()  # further ones, "module:name" each: `name` is their key in the records

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1  # by test top-1

    config.logging = ConfigDict()
    config.logging.loggers = ()  # besides metrics.jsonl and TensorBoard: wandb, mlflow, trackio or "module:name"
    config.logging.project = "resnet_jax"  # under which they keep the run

    config.parallel = ConfigDict()
    config.parallel.devices = 0  # 0: all
    config.parallel.norm_scope = "local"  # BatchNorm statistics of a device (local), of a group of devices, or global
    config.parallel.norm_group = 1  # devices a group
    config.parallel.coordinator = (
        ""  # HOST:PORT of the first host, or "auto" on Cloud TPU, Slurm, Open MPI and Kubernetes; empty: one host
    )
    config.parallel.hosts = 1
    config.parallel.host = 0
    config.parallel.heartbeat_seconds = 20  # after which a silent host is lost
    return config.lock()


def network_fields() -> ConfigDict:
    """Return every field of every registered network class, typed and unset."""
    fields = ConfigDict()
    for network in dict.fromkeys(network for network, _ in NETWORKS.values()):
        for field in dataclasses.fields(network):
            kind = typing.get_origin(field.type) or field.type
            kind = str if kind is types.UnionType and str in typing.get_args(field.type) else kind
            if kind in (int, float, bool, str, tuple) and field.name != "name":
                fields[field.name] = placeholder(kind)
    return fields


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


def optimizer_arguments() -> ConfigDict:
    """Return every argument of Optax's optimizers that is a number, a name or several numbers, typed and unset."""
    return ConfigDict({name: placeholder(kind) for kind, names in OPTIMIZER_ARGUMENTS.items() for name in names})


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Return the config as nested dicts of JSON values; overrides and arguments that are not set are left out."""
    plain = config.to_dict()
    for group, fields in (("model", "overrides"), ("optimizer", "arguments")):
        plain[group][fields] = {name: value for name, value in plain[group][fields].items() if value is not None}
    return plain


def read_config(named: str) -> ConfigDict:
    """Return what `get_config` of a file returns: of FILE, or of FILE:ARGUMENT with this argument.

    Raises ConfigError, with the file and the line, if it returns no config or raises an error.
    """
    file, colon, argument = named.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"there is no config file {file}; configs/ has those of the project.")
    importable_from(Path(file).parent)
    spec = importlib.util.spec_from_file_location("config", file, loader=SourceFileLoader("config", file))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} has no function get_config, which returns the config.")
        config = module.get_config(argument) if colon else module.get_config()
    except UserError:
        raise
    except Exception as error:  # A config file is the user's code and may raise anything.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        place = f"{file}, line {line}" if line else named
        raise ConfigError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}") from error
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


def run_config(file: Path) -> ConfigDict:
    """Return the config in a run's `config.json`.

    Raises ConfigError if it is damaged, or has fields that this version does not have.
    """
    try:
        fields = flattened(read_json(file))
    except (AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged: restore it, or choose another --workdir.") from error
    config = default_config()
    for name, value in fields.items():
        *groups, field = name.split(".")
        try:
            group = functools.reduce(operator.getitem, groups, config)
            if value is not None or field in group:
                group[field] = as_tuples(value)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{file} sets {name} to {json.dumps(value)[:80]}, which this version does not have: name a config by "
                "--config."
            ) from error
    return config


def as_tuples(value: Any) -> Any:
    """Return a JSON value with tuples in the place of lists, as configs have them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def check_names(config: ConfigDict, names: list[str]) -> None:
    """Raise ConfigError for the first of some flags, such as "config.training.epochs", that names no field.

    The sentence has the field that is meant: one of that name in another group, or of a sweep's base, or the nearest.
    """
    fields = [field for field, _ in flat(config)]
    for name in (name.partition(".")[2] for name in names):
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
                f"the config has no field {part!r}{close or '; resnet_jax/config.py describes all of them.'}"
            )


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_config(config: ConfigDict) -> None:
    """Raise ConfigError for a value that no run can have, naming its field."""
    rules = (
        ("data.image_size", lambda value: 1 <= value <= 16384, "1 to 16384"),
        (
            "data.size_schedule",
            lambda value: (
                all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
                and all(epoch >= 0 and 1 <= size <= 16384 for epoch, size in value)
                and list(value) == sorted(value)
            ),
            "pairs of an epoch and a size in pixels, by epoch",
        ),
        ("data.train_fraction", lambda value: value is None or 0 < value <= 1, "more than 0, and 1 at most"),
        ("data.array_size", lambda value: value is None or 1 <= value <= 16384, "1 to 16384"),
        ("data.eval_size", lambda value: value is None or 1 <= value <= 16384, "1 to 16384"),
        ("training.batch_size", lambda value: 1 <= value <= 1000000, "1 to 1000000"),
        ("training.epochs", lambda value: 0 < value <= 1000000, "more than 0, and 1000000 at most"),
        ("training.steps", lambda value: value is None or 1 <= value <= 2147483647, "1 to 2147483647"),
        ("training.microbatches", lambda value: value >= 1, "1 or more"),
        ("training.label_smoothing", lambda value: 0 <= value < 1, "0 or more and less than 1"),
        ("training.ema_decay", lambda value: 0 <= value < 1, "0 or more and less than 1"),
        ("training.skip_nonfinite", lambda value: value >= 0, "0 or more"),
        ("training.log_every", lambda value: value >= 1, "1 or more"),
        ("training.steps_per_dispatch", lambda value: value >= 0, "0 or more"),
        ("model.dtype", lambda value: value in ("float32", "bfloat16", "float16"), "float32, bfloat16 or float16"),
        ("augment.pad", lambda value: value >= 0, "0 or more"),
        (
            "augment.policy",
            lambda value: value in ("", "trivial_augment_wide", "rand_augment"),
            "trivial_augment_wide, rand_augment or empty",
        ),
        ("augment.magnitude", lambda value: 0 <= value <= 10, "0 to 10"),
        ("augment.layers", lambda value: value >= 1, "1 or more"),
        ("augment.color_jitter", lambda value: 0 <= value <= 1, "0 to 1"),
        ("augment.lighting", lambda value: value >= 0, "0 or more"),
        ("augment.erase", lambda value: 0 <= value <= 1, "0 to 1"),
        ("augment.repeats", lambda value: value >= 1, "1 or more"),
        ("augment.mixup", lambda value: value >= 0, "0 or more"),
        ("augment.cutmix", lambda value: value >= 0, "0 or more"),
        ("optimizer.learning_rate", lambda value: value >= 0, "0 or more"),
        ("optimizer.base_batch_size", lambda value: value >= 0, "0 or more"),
        ("optimizer.momentum", lambda value: 0 <= value < 1, "0 or more and less than 1"),
        ("optimizer.clip_norm", lambda value: value >= 0, "0 or more"),
        ("optimizer.weight_decay", lambda value: value >= 0, "0 or more"),
        ("optimizer.backbone_rate", lambda value: value >= 0, "0 or more"),
        ("schedule.warmup_epochs", lambda value: value >= 0, "0 or more"),
        ("schedule.warmup_start", lambda value: 0 <= value <= 1, "0 to 1"),
        ("schedule.factor", lambda value: value > 0, "more than 0"),
        ("schedule.end", lambda value: value >= 0, "0 or more"),
        ("evaluation.batch_size", lambda value: 1 <= value <= 1000000, "1 to 1000000"),
        ("evaluation.every_epochs", lambda value: value >= 1, "1 or more"),
        ("checkpoint.every_epochs", lambda value: value >= 1, "1 or more"),
        ("checkpoint.keep_latest", lambda value: value >= 1, "1 or more"),
        ("checkpoint.keep_best", lambda value: value >= 0, "0 or more"),
        ("parallel.hosts", lambda value: 1 <= value <= 100000, "1 to 100000"),
        ("parallel.heartbeat_seconds", lambda value: 1 <= value <= 3600, "1 to 3600"),
        ("data.resize", lambda value: 1 <= value <= 16384, "1 to 16384"),
        ("data.num_classes", lambda value: 1 <= value <= 1000000, "1 to 1000000"),
        ("data.workers", lambda value: value is None or 0 <= value <= 1024, "0 to 1024"),
    )
    known = {name for name, _ in flat(default_config())}
    for name, value in flat(config):
        if name not in known and not name.startswith("augment."):  # those are compared with what reads them
            raise ConfigError(f"the config has a field {name}, which nothing reads{nearest(name, known)}: remove it.")
        numbers = value if isinstance(value, tuple) else (value,)
        if name == "data.size_schedule" and all(isinstance(pair, tuple) for pair in value):
            numbers = tuple(itertools.chain(*value))
        kinds, wanted = (int, "whole numbers") if name.startswith("model.") else (int | float, "numbers")
        if name in NAME_FIELDS:
            if not all(isinstance(each, str) for each in value):
                raise ConfigError(f"{name} is {value!r} and must hold names only.")
            continue
        if isinstance(value, tuple) and not all(isinstance(number, kinds) for number in numbers):
            raise ConfigError(f"{name} is {value!r} and must hold {wanted} only.")
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{name} is {value!r} and must be finite.")
    for name, allowed, wanted in rules:
        group, field = name.split(".")
        value = config[group][field]
        if not allowed(value):
            raise ConfigError(f"{name} is {value!r} and must be {wanted}.")
