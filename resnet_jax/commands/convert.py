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


def run(values: argparse.Namespace) -> None:
    """Write the weights, and say how many there are.

    Raises ConfigError if the file is there, and is not to be replaced.
    """
    if Path(values.target).exists() and not values.force:
        raise ConfigError(f"{values.target} is there already: name another file, or replace it by --force.")
    import_code(values.config)
    known = of_weights(run_folder(values.source) or values.source)
    name, model = chosen_network(values.model, known, values.set)
    variables = loaded(model, values.source, known, values.average)
    fields = (known.overrides if known and known.network == name else {}) | overrides(values.set)
    preset = dataclasses.replace(known, network=name, overrides=fields) if known else None
    save_weights(model, variables, values.target, preset)
    arrays = len(jax.tree.leaves(variables))
    parameters = sum(math.prod(array.shape) for array in jax.tree.leaves(variables["params"]))
    print(f"{values.target} has the {arrays} arrays of {name}, of which {parameters:,} values are parameters.")
