"""Train or evaluate a network: `python main.py --config=configs/digits.py --workdir=runs/digits`.

Started again with the same workdir, a run goes on where it stopped; a sweep runs what is not done yet. Exit code 0:
done; 1: training diverged, or a run of a sweep failed; 2: something is wrong that the user can mend; 130 or 143:
stopped by Ctrl-C or SIGTERM, the same command goes on.
"""

import re
import sys

from resnet_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # before what follows is imported, which takes seconds

from absl import flags
from ml_collections import config_flags

from resnet_jax.errors import ConfigError, Diverged, UserError
from resnet_jax.interrupts import Interrupted
from resnet_jax.sweep import is_sweep

USAGE = (
    "usage: python main.py --config=FILE --workdir=DIR [--mode=train|eval|replay|list] [--variant=K] "
    "[--config.any.field=value ...]"
)


def parse(arguments: list[str]) -> flags.FlagValues:
    """Return the flags: config, workdir, mode. Raises ConfigError for what is not understood."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "File of the config, such as configs/resnet50.py.", values, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", None, "Folder of the run: metrics, checkpoints and curves.", values)
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "eval", "replay", "list"],
        "Train, evaluate the newest checkpoint, take the step at which training diverged once more, or list a sweep.",
        values,
    )
    flags.DEFINE_string("variant", None, "Run of a sweep, by its number or name, or all of a variant.", values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    try:
        rest = values(arguments)[1:]
        missing = values.config is None and not values.help
        if values.config is not None:
            values.config.keys()  # a file that could not be loaded is told of here, not before
    except UserError:
        raise
    except Exception as error:  # A config file is the user's code and may raise anything.
        raise ConfigError(explain(error)) from error
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag; {USAGE}.")
    if missing:
        raise ConfigError("no config is given: name one by --config=FILE, such as --config=configs/digits.py.")
    return values


def explain(error: Exception) -> str:
    """Return one sentence on what is wrong with the flags or the config file."""
    text = str(error)
    if "Traceback" in text:  # of the config file's own error, of which the last line says what it is
        return f"the config cannot be read: {text.strip().splitlines()[-1]}"
    text = " ".join(text.split())
    if named := re.search(r'Did you mean "([^"]+)" instead of "([^"]+)"', text):
        return f"the config has no field {named[2]!r}, did you mean {named[1]!r}?"
    if isinstance(error, KeyError | AttributeError) and (field := re.fullmatch(r"\W*(\w+)\W*", text)):
        return f"the config has no field {field[1]!r}; resnet_jax/config.py describes all of them."
    if isinstance(error, OSError) and (file := re.search(r"No such file or directory: '([^']*)'", text)):
        return f"there is no config file {file[1]}; configs/ has those of the project."
    return text if isinstance(error, flags.Error) else f"the config cannot be read: {type(error).__name__}: {text}"


def start(values: flags.FlagValues) -> int:
    """Start what the flags name, a run or a sweep, and return its exit code."""
    if is_sweep(values.config):
        from resnet_jax.sweep_runner import run_sweep  # takes seconds to import: a wrong flag is told before

        return int(run_sweep(values.config, values.workdir, values.mode, values.variant) > 0)
    if values.variant is not None or values.mode == "list":
        raise ConfigError(
            "--variant and --mode=list are of sweeps, as configs/sweeps/ has them: this config is of a run."
        )
    from resnet_jax import runner

    runner.run(values.config, values.workdir, values.mode)
    return 0


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        values = parse(arguments)
        if values.help:
            print(f"{__doc__}\n{USAGE}\nresnet_jax/config.py describes every field of a config.")
            return 0
        return start(values)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal


if __name__ == "__main__":
    sys.exit(main(sys.argv))
