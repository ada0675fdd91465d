"""The commands: `resnet-jax VERB`, or `python -m resnet_jax VERB`."""

import argparse
import importlib
import os
import pathlib
import signal
import sys

from resnet_jax import __version__
from resnet_jax.errors import UserError, named_extra
from resnet_jax.lookup import own_modules
from resnet_jax.run import interrupts

# Verb to what it does. `resnet_jax.commands` has a module for each, which is imported when it is called.
VERBS = {
    "train": "Train or evaluate a network, or run a sweep.",
    "doctor": "Print versions, devices and folders, and check that this installation works.",
    "models": "List the networks with their costs and published accuracies.",
    "pack": "Pack a folder of images, ImageNet's archives or a TFDS dataset into shards that are fast to read.",
    "verify": "Check packed data against its checksums.",
    "summary": "Show the layers of a network: shapes, parameters, multiply-adds, receptive fields.",
    "convert": "Convert weights of any format that can be read to safetensors.",
    "predict": "Classify images, as a table, as JSON or as pictures.",
    "fields": "List the fields of a config: type, default, meaning and allowed values.",
    "recipes": "List the published recipes, or compare one with its source field by field.",
    "estimate": "Estimate the time and the cost of a recipe on given hardware.",
    "analyze": "Measure networks: error without a block, gradients, loss surface, feature maps, ...",
    "report": "Make tables and figures from run directories, beside published results.",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code.

    It is that of `train`, or else 0, 2 where the user must mend something, or 141, as of other tools, where nobody
    reads the output any more.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        return importlib.import_module("resnet_jax.commands.train").main(arguments)
    called = pathlib.Path(sys.argv[0]).stem
    prog = called if called == "resnet-jax" else "python -m resnet_jax"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--version", action="version", version=f"resnet_jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    try:
        for verb, purpose in VERBS.items():
            described = verbs.add_parser(verb, help=purpose, description=purpose)
            if verb in arguments[:1]:
                with named_extra():
                    command = importlib.import_module(f"resnet_jax.commands.{verb}")
                command.add_arguments(described)
                described.set_defaults(run=command.run)
        args = parser.parse_args(arguments)
        from resnet_jax.run.compilation import keep_programs  # imports JAX: signals are heeded before

        keep_programs()
        with own_modules(), named_extra():
            args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. Python would flush once more as it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def console() -> None:
    """Run the command line of the process, as the installed command `resnet-jax`."""
    interrupts.watch()
    sys.exit(main())


if __name__ == "__main__":
    console()
