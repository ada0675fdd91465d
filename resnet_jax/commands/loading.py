"""What a measurement is made on: a network with its weights, and examples of evaluation data."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.commands.networks import add_weights_arguments, chosen_network, loaded
from resnet_jax.data.augment import Augment
from resnet_jax.data.sources import Arrays, Dataset, open_dataset
from resnet_jax.data.sources.dataset import transformed
from resnet_jax.data.transforms import ResizeCenterCrop
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lab.sweep import SWEEP_FILE
from resnet_jax.models.initialization import initialize
from resnet_jax.run.files import read_json
from resnet_jax.weights.presets import Preset, named, of_weights, presets, run_folder


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network that is measured.

    Attributes:
      name: what the user calls it: the run's folder or the weights' name.
      network: registered name.
      model: the network, in float32.
      variables: its weights.
      source: of the data, as `data.source` names it.
      indices: of the examples, in the evaluation split.
      pixels: the examples as uint8 (examples, height, width, channels), as they are before normalization.
      images: the same as float32, as the network reads them.
      labels: int32 (examples,).
      classes: the name of each label.
      seed: of the run that made the weights; 0 where that is not known.
    """

    name: str
    network: str
    model: nn.Module
    variables: dict[str, Any]
    source: str
    indices: np.ndarray
    pixels: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    seed: int

    def initial_variables(self) -> dict[str, Any]:
        """Return new weights: of a run those that it began with, unless it began with a file."""
        key = jax.random.fold_in(jax.random.key(self.seed), 0)
        return initialize(self.model, key, self.images.shape[1:])


def add_network_arguments(parser: argparse.ArgumentParser, examples: int | None) -> None:
    """Declare the networks, their data and, unless `examples` is None, how many of these are taken."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run's folder, a weights file, a preset, hf:OWNER/NAME"
    )
    parser.add_argument("--model", help="name of the network, if the weights do not say it")
    parser.add_argument("--preset", help="preset whose preprocessing to use; default: that of the weights")
    parser.add_argument(
        "--data.source", dest="source", metavar="SOURCE", help="data source; default: that of the weights"
    )
    parser.add_argument("--data.path", dest="path", metavar="DIR", help="folder of the data; default: that of the run")
    if examples is not None:
        parser.add_argument(
            "--examples",
            type=int,
            metavar="N",
            help=f"number of random evaluation examples; default: {examples}, or all if there are fewer",
        )
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    add_weights_arguments(parser)


def load_network(run: str, args: argparse.Namespace, examples: int, index: int | None = None) -> LoadedNetwork:
    """Return the network of a run or of weights, with examples of its evaluation data.

    Args:
      run: as the user names it.
      args: what `add_network_arguments` declares.
      examples: how many are taken where the user does not say it, at most.
      index: of the one example that is taken instead.

    Raises:
      ConfigError: what is named does not say enough, or there are fewer examples.
      DataError: weights or data are missing or damaged.
      CheckpointError: the run's checkpoint cannot be read.
    """
    folder = run_folder(run)
    config = read_json(folder / "config.json") if folder else None
    groups = config if isinstance(config, dict) else {}
    data, training = (groups[name] if isinstance(groups.get(name), dict) else {} for name in ("data", "training"))
    known = of_weights(folder or run)
    if folder is None and known is None and not Path(run).exists() and not run.startswith("hf:"):
        raise ConfigError(f"there is no run, weights file or preset {run}{nearest(run, presets())}: check the name.")
    if folder is not None and known is None and args.model is None:
        raise ConfigError(
            f"{run} holds no run whose network is known (preset.json): train there first, or name --model."
        )
    network, model = chosen_network(args.model, known, args.set)
    preset = named(args.preset) if args.preset else known

    source = args.source or (preset.dataset if preset else data.get("source"))
    if source is None:
        raise ConfigError(f"{run} does not say on which data it is measured: name them by --data.source.")
    path = args.path or (data.get("path") if source == data.get("source") else None)
    classes = preset.classes if preset else ()
    size = data.get("image_size") or (preset.size if preset else 32)
    dataset = open_dataset(source, path, image_size=size, num_classes=len(classes) or 1000)
    indices = _drawn(len(dataset.test), args, examples) if index is None else _one(len(dataset.test), index)
    variables = loaded(model, run, known, args.average)
    pixels, labels = _read(dataset, preset, indices)
    augment = Augment(
        mean=tuple(preset.mean if preset else dataset.mean),
        std=tuple(preset.std if preset else dataset.std),
        num_classes=max(1, model.num_classes),
        size=preset.size if preset and preset.size != pixels.shape[1] else None,
    )
    _check(run, model, variables, pixels, augment, dataset, labels)
    return LoadedNetwork(
        name=called(run),
        network=network,
        model=model,
        variables=jax.tree.map(jnp.asarray, variables),
        source=source,
        indices=indices,
        pixels=pixels,
        images=np.asarray(augment.inputs(jnp.asarray(pixels))),
        labels=labels,
        classes=dataset.classes,
        seed=training.get("seed", 0),
    )


def called(run: str) -> str:
    """Return the short name of a run or of weights: of a sweep's run "VARIANT/seedN", else the last one of its path."""
    path = Path(run)
    if not path.exists():
        return run
    path = path.resolve()
    of_sweep = (path.parents[1] / SWEEP_FILE).exists() if len(path.parents) > 1 else False
    return "/".join(path.parts[-2:] if of_sweep else path.parts[-1:])


def _drawn(available: int, args: argparse.Namespace, most: int) -> np.ndarray:
    wanted = min(most, available) if args.examples is None else args.examples
    if not 1 <= wanted <= available:
        raise ConfigError(f"--examples is {wanted}, and there are {available} evaluation examples: ask for 1 to that.")
    return np.sort(np.random.default_rng(args.seed).permutation(available)[:wanted])


def _one(available: int, index: int) -> np.ndarray:
    if not 0 <= index < available:
        raise ConfigError(f"--index is {index}, and the evaluation examples are numbered 0 to {available - 1}.")
    return np.array([index])


def _read(dataset: Dataset, preset: Preset | None, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples as uint8 images of one size, and their labels."""
    if isinstance(dataset.test, Arrays):
        return dataset.test.images[indices], dataset.test.labels[indices]
    if preset is None:
        raise ConfigError("the weights do not say how images are resized and cropped: name --preset for that.")
    crop = ResizeCenterCrop(preset.resize, preset.size, preset.interpolation)
    pixels, labels = zip(*(transformed(dataset.test, int(index), crop) for index in indices), strict=True)
    return np.stack(pixels), np.array(labels, np.int32)


def _check(run, model, variables, pixels, augment, dataset, labels) -> None:
    """Raise ConfigError if the data are not for the network."""
    if not model.num_classes:
        raise ConfigError(f"{run} has no head and so no classes: leave num_classes at what its weights have.")
    stem = jax.tree.leaves(variables["params"].get("stem_conv", {}))  # a network of the user's may have no such layer
    channels = next((array.shape[2] for array in stem if array.ndim == 4), len(augment.mean))
    if not channels == pixels.shape[-1] == len(augment.mean):
        raise ConfigError(
            f"{run} reads images of {channels} channels, and the data have {pixels.shape[-1]}: name others by "
            "--data.source."
        )
    if labels.max() >= model.num_classes:
        raise ConfigError(
            f"{run} has {model.num_classes} classes, and the data have {len(dataset.classes)}: name others by "
            "--data.source."
        )
