"""`convert`: weights of any kind that is read, to safetensors under torchvision's names."""

import argparse
import dataclasses
import math
from pathlib import Path

import jax

from resnet_jax.commands.networks import add_weights_arguments, chosen_network, import_code, loaded, overrides
from resnet_jax.errors import ConfigError
from resnet_jax.weights import save_weights
from resnet_jax.weights.presets import of_weights, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("source", help="a weights file, a preset, hf:OWNER/NAME, or the folder of a run")
    parser.add_argument("target", help="a file that ends with .safetensors")
    parser.add_argument("--model", help="name of the network, if the weights do not say it")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Write the weights, and say how many there are.

    Raises ConfigError if the file is there, and is not to be replaced.
    """
    if Path(args.target).exists() and not args.force:
        raise ConfigError(f"{args.target} is there already: name another file, or replace it by --force.")
    import_code(args.config)
    known = of_weights(run_folder(args.source) or args.source)
    name, model = chosen_network(args.model, known, args.set)
    variables = loaded(model, args.source, known, args.average)
    fields = (known.overrides if known and known.network == name else {}) | overrides(args.set)
    preset = dataclasses.replace(known, network=name, overrides=fields) if known else None
    save_weights(model, variables, args.target, preset)
    arrays = len(jax.tree.leaves(variables))
    parameters = sum(math.prod(array.shape) for array in jax.tree.leaves(variables["params"]))
    print(f"{args.target} has the {arrays} arrays of {name}, of which {parameters:,} values are parameters.")
