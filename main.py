"""Train or evaluate a network: `python main.py --config=configs/digits.py --workdir=runs/digits`.

Started again with the same workdir, a run goes on where it stopped. Exit code 0: done; 1: training diverged; 2:
something is wrong that the user can mend; 130 or 143: stopped by Ctrl-C or SIGTERM, and saved.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from resnet_jax.errors import ConfigError, Diverged, UserError
from resnet_jax.interrupts import Interrupted

CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config, such as configs/resnet50.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: metrics, checkpoints and curves go there.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Train, or evaluate a run's newest checkpoint or a weights file."
)


def parse(arguments: list[str]) -> None:
    """Read the flags and the config file. Raises ConfigError for what is not understood."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(arguments)[1:]
    except Exception as error:  # A config file is the user's code and may raise anything.
        text = " ".join(str(error.args[0] if error.args else error).split())
        raise ConfigError(f"{text.rstrip('.')} ({type(error).__name__}); --help shows the flags.") from error
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag: write --config=FILE --workdir=DIR --config.any.field=value.")
    if CONFIG.value is None:
        raise ConfigError("no config is given: name one by --config=FILE, such as --config=configs/digits.py.")


def main(arguments: list[str]) -> int:
    """Run a command line; return its exit code."""
    try:
        parse(arguments)
        from resnet_jax import runner  # imports JAX, which takes seconds: wrong flags are told before

        runner.run(CONFIG.value, WORKDIR.value, MODE.value)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
