"""`predict`: what a network sees in images."""

import argparse
import collections
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet_jax.commands.networks import add_weights_arguments, chosen_network, import_code, loaded
from resnet_jax.data.augment import normalize
from resnet_jax.data.sources.folder import EXTENSIONS
from resnet_jax.data.transforms import ResizeCenterCrop
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.lab.analysis.gradcam import gradcam
from resnet_jax.printable import printable
from resnet_jax.run import tables
from resnet_jax.run.files import disk_errors
from resnet_jax.run.reading import MOST_OF_AN_IMAGE, read_file
from resnet_jax.weights.presets import Preset, default, named, of_weights

BATCH = 32


class Prediction(NamedTuple):
    """What is known of an image file at the end.

    Attributes:
      file: its path.
      image: what the network saw of it, uint8 (height, width, channels).
      probabilities: of each class.
      heat: Grad-CAM of the likeliest class, if it was asked for.
    """

    file: Path
    image: np.ndarray
    probabilities: np.ndarray
    heat: np.ndarray | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("images", nargs="+", help="image files and folders, which are searched recursively")
    parser.add_argument("--model", help="name of the network, if the weights do not say it")
    parser.add_argument("--weights", help="file, preset, hf:OWNER/NAME or run; default: those of the network")
    parser.add_argument("--preset", help="preset whose preprocessing to use; default: that of the weights or network")
    parser.add_argument("--top", type=int, default=5, help="number of classes to show for an image (5)")
    parser.add_argument("--pictures", metavar="DIR", help="draw each image there, with its classes and Grad-CAM")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    add_weights_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Show the likeliest classes of each image, and draw the pictures.

    What is no image is named on standard error, and the others are predicted.

    Raises:
      ConfigError: network, weights and preset are not known, or do not say enough.
      DataError: there are no images, the weights cannot be used, or, at the end, some files were no images.
    """
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}: show 1 class or more.")
    import_code(args.config)
    weights, preset = chosen_weights(args.model, args.weights, args.preset)
    # A default preset says how to prepare images for weights that are not known, but not what their network is.
    known = of_weights(weights) or (named(args.preset) if args.preset else None)
    _, model = chosen_network(args.model, known, args.set)
    if not model.num_classes:
        raise ConfigError("the network has no head and so no classes: leave num_classes at what its weights have.")
    files = image_files(args.images)
    variables = loaded(model, weights, known, args.average)
    classes = preset.classes
    if len(classes) != model.num_classes:  # nobody knows their names
        classes = tuple(str(label) for label in range(model.num_classes))

    unreadable, rows = [], []
    pictures = picture_files(files, args.pictures)
    images = readable(files, preset, unreadable)
    for seen in predict(model, variables, preset, images, min(BATCH, len(files)), with_heat=bool(pictures)):
        best = likeliest(seen.probabilities, classes, args.top)
        rows.append({"file": str(seen.file), "classes": best})
        if pictures and seen.heat is not None:
            pairs = [(row["class"], row["probability"]) for row in best]
            from resnet_jax.lab.report.prediction import draw_prediction  # needs matplotlib, as nothing else here

            draw_prediction(seen.image, seen.heat, pairs, pictures[seen.file], seen.file.name)
    if rows or args.format == "json":
        show(rows, args.format)
    if unreadable:
        raise DataError(f"{len(unreadable)} of {len(files)} files could not be read as images and are named above.")


def chosen_weights(network: str | None, weights: str | None, preset: str | None) -> tuple[str, Preset]:
    """Return weights and their preset, from what the user has named of them and of the network.

    Raises ConfigError if that is too little, or if a name is unknown.
    """
    if preset is not None:
        return weights or preset, named(preset)
    known = of_weights(weights) if weights is not None else None
    if known is None and network is None:
        problem = "no network is named" if weights is None else f"{weights} does not name its network"
        raise ConfigError(f"{problem}: name one by --model, or weights by --weights.")
    preset_of = known or default(str(network))
    return weights or preset_of.name, preset_of


def image_files(paths: list[str]) -> list[Path]:
    """Return the files that are named, and those of image formats in the folders that are named.

    Raises DataError if a path does not exist or a folder has no images.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"there is no image or folder {path}: check the name.")
        found = [path]
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if not file.name.startswith("."))
            found = [file for file in inside if file.suffix.lower() in EXTENSIONS and file.is_file()]
        if not found:
            raise DataError(f"{path} has no images: their names must end with {', '.join(EXTENSIONS)}.")
        files += found
    return files


def readable(files: list[Path], preset: Preset, unreadable: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Give the files that are images, with what the network is to see of them.

    The others are named on standard error and added to `unreadable`.
    """
    crop = ResizeCenterCrop(preset.resize, preset.size, preset.interpolation)
    for file in files:
        try:
            image = crop(read_file(file, MOST_OF_AN_IMAGE))
        except (DataError, OSError) as error:
            print(printable(f"error: {file}: {error}", 500), file=sys.stderr)
            unreadable.append(file)
            continue
        if len(preset.mean) == 1:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        yield file, image


def predict(
    model: nn.Module,
    variables: dict[str, Any],
    preset: Preset,
    images: Iterator[tuple[Path, np.ndarray]],
    batch_size: int,
    with_heat: bool,
) -> Iterator[Prediction]:
    """Give the prediction of each image. All batches have one size, so that one program is compiled."""

    @jax.jit
    def program(variables, images):
        images = normalize(images, preset.mean, preset.std)
        scores: Any = model.apply(variables, images, train=False)
        heat = gradcam(model, variables, images, jnp.argmax(scores, axis=1)) if with_heat else [None] * batch_size
        return jax.nn.softmax(scores), heat

    while batch := list(itertools.islice(images, batch_size)):
        files, crops = zip(*batch, strict=True)
        padded = np.zeros((batch_size, *crops[0].shape), np.uint8)
        padded[: len(crops)] = crops
        probabilities, heat = jax.device_get(program(variables, padded))
        if np.isnan(probabilities).any():
            raise DataError("the network's output is NaN or infinite: its weights are damaged, or of another network.")
        yield from map(Prediction, files, crops, probabilities, heat)


def likeliest(probabilities: np.ndarray, classes: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """Return the `count` likeliest classes, or all if there are fewer, the likeliest first."""
    labels = np.argsort(-probabilities, kind="stable")[:count]
    return [{"label": int(i), "class": classes[i], "probability": float(probabilities[i])} for i in labels]


def picture_files(files: list[Path], folder: str | None) -> dict[Path, Path]:
    """Return a picture in `folder` for each image, named as the image is, with a number where another one is too.

    Empty where no folder is given. Raises UserError if the folder cannot be made.
    """
    pictures, used = {}, collections.Counter()
    if folder is None:
        return pictures
    with disk_errors(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        used[file.stem] += 1
        number = f"_{used[file.stem]}" if used[file.stem] > 1 else ""
        pictures[file] = Path(folder, f"{file.stem}{number}.png")
    return pictures


def show(rows: list[dict[str, Any]], style: str) -> None:
    """Print the images and their classes as a table or as JSON."""
    if style == "json":
        print(json.dumps(rows, indent=2))
        return
    cells = [
        ("" if rank else row["file"], best["class"], f"{100 * best['probability']:.2f} %")
        for row in rows
        for rank, best in enumerate(row["classes"])
    ]
    tables.show(("image", "class", "#probability"), cells)
