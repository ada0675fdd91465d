"""Weights in and out: a network's variables as a file of named arrays that torch can read.

Names and layout are torchvision's, and timm's for pre-activation networks and for what torchvision does not have. A
running variance is kept over N - 1 values here and in torch (`norm_unbiased`), so that imported weights need no factor,
neither for evaluation nor for fine-tuning, and come back as they were. A network with `norm_unbiased=False` keeps it
over N: its own steps then add variances that are smaller by (N - 1) / N.
"""

import functools
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import DataError
from resnet_jax.run.checkpoints import read_variables
from resnet_jax.run.files import write_atomically
from resnet_jax.weights.adapt import adapted
from resnet_jax.weights.files import read_arrays
from resnet_jax.weights.hub import local_file
from resnet_jax.weights.names import Names, from_torch, names_of, to_torch, torch_name, torchvision_name
from resnet_jax.weights.presets import METADATA, Preset

Variables = dict[str, Any]

# The kernel that reads the image, by kind of stem: its shape gives the channels of an image.
FIRST_KERNELS = ("stem_conv/kernel", "stem_conv/conv1/kernel")
# A checkpoint may hold so many values as these copies of the network's (parameters, momenta, averages), and others.
COPIES, OTHERS = 8, 2**27
HEAD = ("head/kernel", "head/bias")
SIZE, CHANNELS = 32, 3  # of the images where nothing is known of them


def save_weights(model: nn.Module, variables: Variables, file: str | Path, preset: Preset | None = None) -> None:
    """Write the parameters and BatchNorm statistics of `model` under torchvision's or timm's names, in torch's layout.

    Torch's `load_state_dict(strict=True)` takes the file: counters of batches, which play no part, it adds itself. A
    preset, with the names of the classes, is kept in the file's header.

    Raises DataError if the file's name does not end with .safetensors, or if the variables belong to another network.
    """
    if Path(file).suffix != ".safetensors":
        raise DataError(f"weights are written as safetensors: end the name of {file} with .safetensors.")
    arrays = arrays_of(variables)
    size, channels = (preset.size, len(preset.mean)) if preset else (SIZE, CHANNELS)
    channels = next((arrays[path].shape[2] for path in FIRST_KERNELS if path in arrays), channels)
    wanted = {path: array.shape for path, array in arrays_of(shapes(model, channels, size)).items()}
    given = {path: array.shape for path, array in arrays.items()}
    # What the network lacks comes last: another family's path may have no name in this one.
    differing = sorted(wanted.items() ^ given.items(), key=lambda item: (item[0] not in wanted, item))
    if differing:
        name = name_in_file(differing[0][0], names_of(model))
        raise DataError(f"the variables are not those of the network: they differ in {name}.")
    named = {name: np.asarray(array, np.float32, order="C") for name, array in torch_arrays(model, variables).items()}
    metadata = {METADATA: preset.write()} if preset else None
    write_atomically(file, safetensors.numpy.save(named, metadata))


def torch_arrays(model: nn.Module, variables: Variables) -> dict[str, np.ndarray]:
    """Return the arrays of a network by their names in torch, and in its layout."""
    return in_torch_layout(arrays_of(variables), names_of(model))


def load_weights(
    model: nn.Module,
    file: str | Path,
    *,
    channels: int | None = None,
    size: int = SIZE,
    adapt: bool = False,
    key: jax.Array | None = None,
    average: bool = False,
) -> Variables:
    """Return the variables of `model` from a file of torchvision's or timm's or from a run, in float32 on the host.

    Args:
      model: the network.
      file: safetensors or torch's own format (.pth, .pt, .th), which is read without torch and executes nothing, or a
        name that `hub.local_file` knows: a preset's, or one on the Hugging Face Hub; or the folder of a run, of which
        the newest checkpoint is taken, or of one checkpoint (RUN/checkpoints/STEP).
      channels: of the images; None: as many as the file's network reads.
      size: pixels a side of the images, on which arrays of a network of your own may depend.
      adapt: make weights fit that differ from the network in their head or in the images' channels alone. A head of
        another number of classes, or none, is replaced by a new one; the first kernel is summed over its channels for
        one, and repeated and scaled for more, as `adapt.adapt_kernel` says.
      key: from which a new head is drawn; None: `jax.random.key(0)`.
      average: take a run's moving averages.

    Raises DataError if the file is missing, damaged or hostile, or if an array is missing, left over or misshaped;
    CheckpointError if a run's checkpoint cannot be read, or keeps no averages.
    """
    name_of = functools.partial(name_in_file, names=names_of(model))
    own = arrays_of(shapes(model, channels or CHANNELS, size))
    if Path(file).is_dir():
        most = OTHERS + COPIES * sum(math.prod(array.shape) for array in own.values())
        found = arrays_of_run(file, names_of(model), average, most)
    else:
        found = arrays_of_file(file, average)
    # A network of the user's may have no such kernel: then nothing is fitted to an image's channels.
    first = name_of(next((path for path in FIRST_KERNELS if path in own), ""))
    head = name_of(HEAD[0]), name_of(HEAD[1])
    stem = found.get(first)
    read = stem.shape[1] if stem is not None and stem.ndim == 4 else CHANNELS
    channels = int(read) if channels is None else channels
    paths = {name_of(path): path for path in own}
    wanted = {name_of(path): array.shape for path, array in arrays_of(shapes(model, channels, size)).items()}
    fitted = functools.partial(adapted, found, wanted, first, head, channels, jax.random.key(0) if key is None else key)
    arrays = in_own_layout(fitted() if adapt else found)
    if problem := misfit(file, arrays, wanted):
        helps = not adapt and not misfit(file, in_own_layout(fitted()), wanted)
        advice = "; adapt=True, or training.init_adapt in a config, makes it fit" if helps else ""
        raise DataError(f"{problem}{advice}.")
    loaded = {path: arrays[name].astype(np.float32) for name, path in paths.items()}
    return {kind: unflatten_dict(arrays, sep="/") for kind, arrays in by_kind(loaded).items()}


def in_own_layout(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays in Flax's layout, without torch's counters of batches."""
    return {name: from_torch(array, name) for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def misfit(file: str | Path, arrays: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]) -> str | None:
    """Return in what the arrays of a file are not those that a network wants, or None."""
    for name, shape in wanted.items():
        if name not in arrays and (prefix := common_prefix(arrays, wanted)) is not None:
            place = f"under the prefix {prefix!r}, which is not read"
            return f"{file} has its arrays {place}: save the network's arrays alone, without it"
        if name not in arrays:
            return f"{file} has no {name}: it belongs to another network"
        if arrays[name].shape != shape:
            return f"{name} in {file} has the shape {arrays[name].shape} where the network has {shape}"
    left = sorted(arrays.keys() - wanted.keys())
    return f"{file} has {left[0]}, which the network has not: it belongs to another network" if left else None


def common_prefix(arrays: Iterable[str], wanted: Collection[str]) -> str | None:
    """Return what stands before most of the wanted names among those of a file, or None."""
    names = set(arrays)
    last = max(wanted, key=len)
    prefixes = sorted(name.removesuffix(last) for name in names if name.endswith(f".{last}"))
    return next((p for p in prefixes if 2 * sum(p + name in names for name in wanted) > len(wanted)), None)


def arrays_of_file(file: str | Path, average: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a file under torchvision's names and in torch's layout."""
    if average:
        raise DataError(
            f"moving averages are taken from runs alone, and {file} is none: leave them out (--average, average=True, "
            "training.init_from_ema), or save those that it holds as weights of their own."
        )
    return {torchvision_name(name): array for name, array in read_arrays(local_file(file)).items()}


def arrays_of_run(folder: str | Path, names: Names, average: bool, most: int) -> dict[str, np.ndarray]:
    """Return the arrays of a run, or of one of its checkpoints, under a network's names and in torch's layout.

    The checkpoint may hold at most so many values.
    """
    return in_torch_layout(arrays_of(read_variables(folder, average, most)), names)


def in_torch_layout(arrays: dict[str, Any], names: Names) -> dict[str, np.ndarray]:
    """Return arrays by Flax path under a network's names in torch, and in its layout."""
    named = {name_in_file(path, names): np.asarray(array) for path, array in arrays.items()}
    return {name: to_torch(array, name) for name, array in named.items()}


def name_in_file(path: str, names: Names) -> str:
    """Return torch's name of the array at a Flax path, or the path where torch has none: in a block of the user's."""
    try:
        return torch_name(path, names)
    except (ValueError, KeyError):
        return path


def shapes(model: nn.Module, channels: int = CHANNELS, size: int = SIZE) -> Variables:
    """Return the shapes of a network's variables, for images of so many channels and pixels a side."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, channels))))


def arrays_of(variables: Variables) -> dict[str, Any]:
    """Return the arrays by path without their kind: parameters and statistics never share one."""
    return {name: array for kind in variables.values() for name, array in flatten_dict(kind, sep="/").items()}


def by_kind(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Undo `arrays_of`: means and variances are statistics, all else are parameters."""
    kinds = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        kinds["batch_stats" if name.rpartition("/")[2] in ("mean", "var") else "params"][name] = array
    return kinds
