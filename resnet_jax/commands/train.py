"""Train or evaluate a network: `resnet-jax train digits --workdir=runs/digits`.

In a checkout, `python main.py --config=configs/digits.py --workdir=runs/digits` is the same.

Started again with the same workdir, a run resumes and needs no other flag; a sweep runs what is not done yet. Exit code
0: done; 1: training diverged, or a run of a sweep failed; 2: something is wrong that the user can mend; 130 or 143:
stopped by Ctrl-C or SIGTERM, the same command resumes.
"""

import re
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from resnet_jax import __version__
from resnet_jax.config.files import check_names, own_code, read_config, run_config
from resnet_jax.config.reference import help_text
from resnet_jax.errors import ConfigError, Diverged, UserError
from resnet_jax.lab.sweep import is_sweep
from resnet_jax.lookup import own_modules
from resnet_jax.run import interrupts
from resnet_jax.run.workdir import RunDirectory

USAGE = (
    "usage: python main.py --config=FILE --workdir=DIR [--mode=train|eval|replay|list] [--variant=K] "
    "[--config.any.field=value ...], or resnet-jax train FILE with the same flags; of a run that was begun, "
    "--workdir=DIR is enough"
)
HELP = "--help=WORD shows the fields of a config that mention a word. All of them:"


def parse(arguments: list[str]) -> flags.FlagValues:
    """Return the flags: config, workdir, mode, variant. Raises ConfigError for what is not understood.

    The config may be the first argument, without a flag.

    Without --config it is that of the run in the workdir; so it is where a run is evaluated or replayed, with what the
    command line sets.
    """
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        arguments = [arguments[0], f"--config={arguments[1]}", *arguments[2:]]
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config: a file, or the name of the project's, such as resnet50.", values)
    flags.DEFINE_string("workdir", None, "Folder of the run: metrics, checkpoints and curves.", values)
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "eval", "replay", "list"],
        "Train, evaluate the newest checkpoint, take the step at which training diverged once more, or list a sweep.",
        values,
    )
    flags.DEFINE_string("variant", None, "Run of a sweep, by its number or name, or all of a variant.", values)
    try:
        rest = values(arguments, known_only=True)
        config = named_config(values)
        check_names(config, [name.lstrip("-").partition("=")[0] for name in rest if re.match("--?config[.]", name)])
        del values.config
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
        rest = values(rest)[1:]
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag; {USAGE}.")
    return values


def help_word(arguments: list[str]) -> str | None:
    """Return WORD of `--help=WORD`, an empty word for `--help` or `-h`, and None without it."""
    found = [re.fullmatch(r"(?:-h|--?help)(?:=(.*))?", argument) for argument in arguments[1:]]
    return next((match[1] or "" for match in found if match), None)


def named_config(values: flags.FlagValues) -> ConfigDict:
    """Return the config that --config names, or that of the run in --workdir."""
    file = RunDirectory(values.workdir).config if values.workdir else None
    begun = file is not None and file.exists()
    if values.config is None and not begun:
        raise ConfigError(
            "no config is given: name one by --config=FILE, such as --config=configs/digits.py, or by --workdir=DIR a "
            "run that was begun."
        )
    named: Any = None if values.config is None else read_config(values.config)
    evaluates = values.mode in ("eval", "replay")
    if named and (not begun or is_sweep(named) or not evaluates or named.training.init_from is not None):
        return named
    assert file is not None  # of a run that was begun
    config = run_config(file)
    # A run's folder may come from anybody: it names no code that the user has not named.
    if foreign := own_code(config) - (set() if named is None else own_code(named)):
        raise ConfigError(
            f"{file} names code that is not the project's ({', '.join(sorted(foreign))}): name the config file with "
            "that code by --config."
        )
    return config


def start(values: flags.FlagValues) -> int:
    """Start what the flags name, a run or a sweep, and return its exit code."""
    if is_sweep(values.config):
        from resnet_jax.lab.sweep_runner import run_sweep  # takes seconds to import: a wrong flag is reported before

        return int(run_sweep(values.config, values.workdir, values.mode, values.variant) > 0)
    if values.variant is not None or values.mode == "list":
        raise ConfigError(
            "--variant and --mode=list need a sweep, such as those of configs/sweeps/, and this config is for one run."
        )
    from resnet_jax import runner

    runner.run(values.config, values.workdir, values.mode)
    return 0


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        if "--version" in arguments[1:]:
            print(f"resnet_jax {__version__}")
            return 0
        word = help_word(arguments)
        if word is not None:
            print(help_text(word) if word else f"{__doc__}\n{USAGE}\n{HELP}\n\n{help_text()}")
            return 0
        with own_modules():
            return start(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupts.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
