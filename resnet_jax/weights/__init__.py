"""Weights in and out: a network's variables as a file of named arrays that torch can read."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import DataError
from resnet_jax.run_directory import write_atomically
from resnet_jax.weights.files import read_arrays
from resnet_jax.weights.hub import local_file
from resnet_jax.weights.names import from_torch, to_torch, torch_name, torchvision_name
from resnet_jax.weights.runs import is_run, load_run

Variables = dict[str, Any]

# The kernel that sees the image, by kind of stem: its shape tells the channels of an image.
FIRST_KERNELS = ("stem_conv/kernel", "stem_conv/conv1/kernel")


def save_weights(model: nn.Module, variables: Variables, file: str | Path) -> None:
    """Write the parameters and BatchNorm statistics of `model` under torchvision's names and in torch's layout.

    The running variances are written as they are: over N values, as Flax keeps them, where torch divides by N - 1.

    Raises DataError if the file's name does not end with .safetensors, or if the variables are of another network.
    """
    if Path(file).suffix != ".safetensors":
        raise DataError(f"weights are written as safetensors: end the name of {file} with .safetensors.")
    arrays = arrays_of(variables)
    channels = next(arrays[path] for path in FIRST_KERNELS if path in arrays).shape[2]
    wanted = {path: array.shape for path, array in arrays_of(shapes(model, channels)).items()}
    given = {path: array.shape for path, array in arrays.items()}
    # What the network lacks comes last: another family's path may have no name in this one.
    differing = sorted(wanted.items() ^ given.items(), key=lambda item: (item[0] not in wanted, item))
    name_of = functools.partial(torch_name, network=type(model))
    if differing:
        raise DataError(f"the variables are not those of the network: they differ in {name_of(differing[0][0])}.")
    named = {name_of(path): to_torch(np.asarray(array, np.float32)) for path, array in arrays.items()}
    write_atomically(file, safetensors.numpy.save(named))


def load_weights(model: nn.Module, file: str | Path) -> Variables:
    """Return the variables of `model` from a file of torchvision's or timm's, in float32 on the host.

    The file is safetensors or torch's own format (.pth, .pt, .th), which is read without torch and executes nothing. It
    may be named as `local_file` says: by a preset, or on the Hugging Face Hub. It may also be the folder of a run.

    Raises DataError if the file is missing, damaged or hostile, or if an array is missing, left over or misshaped.
    """
    if is_run(file):
        return load_run(model, file)
    file = local_file(file)
    found = {torchvision_name(name): array for name, array in read_arrays(file).items()}
    name_of = functools.partial(torch_name, network=type(model))
    own = arrays_of(shapes(model))
    stem = found.get(next(name_of(path) for path in FIRST_KERNELS if path in own))
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    loaded = {}
    for name, wanted in arrays_of(shapes(model, channels)).items():
        key = name_of(name)
        if key not in found:
            raise DataError(f"{file} has no {key}: it belongs to another network.")
        array = from_torch(found.pop(key))
        if array.shape != wanted.shape:
            raise DataError(f"{key} in {file} has the shape {array.shape} where the network has {wanted.shape}.")
        loaded[name] = array.astype(np.float32)
    left = sorted(key for key in found if not key.endswith("num_batches_tracked"))
    if left:
        raise DataError(f"{file} has {left[0]}, which the network has not: it belongs to another network.")
    return {kind: unflatten_dict(arrays, sep="/") for kind, arrays in by_kind(loaded).items()}


def shapes(model: nn.Module, channels: int = 3) -> Variables:
    """Return the shapes of a network's variables."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, channels))))


def arrays_of(variables: Variables) -> dict[str, Any]:
    """Return the arrays by path without their kind: parameters and statistics never share one."""
    return {name: array for kind in variables.values() for name, array in flatten_dict(kind, sep="/").items()}


def by_kind(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Undo `arrays_of`: means and variances are statistics, all else are parameters."""
    kinds = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        kinds["batch_stats" if name.rpartition("/")[2] in ("mean", "var") else "params"][name] = array
    return kinds
