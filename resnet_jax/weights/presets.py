"""Presets: what known weights expect of an image, what they say about it, and what was published of them."""

import csv
import dataclasses
import functools
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import safetensors

from resnet_jax.errors import ConfigError, DataError, nearest
from resnet_jax.models.registry import create_model

RUN_FILE = "preset.json"
METADATA = "preset"  # the name of a preset in the header of a safetensors file
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """What belongs to a set of weights.

    Attributes:
      name: such as "resnet50.IMAGENET1K_V1"; empty for the weights of a run.
      network: registered name.
      overrides: fields in which the network differs from the registered one.
      dataset: whose classes the weights tell apart, as `data.source` names it; of ImageNet that is "folder".
      weights: where they are published: an address, or "hf:OWNER/NAME" on the Hugging Face Hub; empty for a run's.
      classes: the name of each logit.
      resize: pixels of the short side, to which an image is resized.
      size: pixels of the central square that is cut out then.
      interpolation: of resizing: "bilinear", "bicubic" or "nearest", antialiased.
      mean, std: per channel, of images scaled to 0..1.
      top1, top5: published accuracies in this setting, as fractions, or None.
      source: of the weights and the accuracies.
    """

    name: str = ""
    network: str
    overrides: dict[str, Any]
    dataset: str
    weights: str = ""
    classes: tuple[str, ...]
    resize: int
    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    top1: float | None = None
    top5: float | None = None
    source: str = ""

    def write(self) -> str:
        """Return the text of a run's `preset.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @property
    def file(self) -> str:
        """The name under which the weights are published, without its folder."""
        return self.weights.rpartition("/")[2]


@functools.cache
def presets() -> dict[str, Preset]:
    """Return all presets by name. Of a network's presets the first is its default."""
    table = importlib.resources.files("resnet_jax.weights").joinpath("presets.csv").read_text()
    return {row["name"]: _preset(row) for row in csv.DictReader(table.splitlines())}


def _preset(row: dict[str, str]) -> Preset:
    numbers = {name: tuple(float(value) for value in row[name].split()) for name in ("mean", "std")}
    accuracies = {name: float(row[name]) if row[name] else None for name in ("top1", "top5")}
    words = {name: row[name] for name in ("name", "network", "dataset", "weights", "interpolation", "source")}
    return Preset(
        overrides=dict(pair.split("=") for pair in row["overrides"].split()),
        classes=CIFAR10_CLASSES if row["dataset"] == "cifar10" else tuple(imagenet_classes().values()),
        resize=int(row["resize"]),
        size=int(row["size"]),
        **numbers,
        **accuracies,
        **words,
    )


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Return the names of the 1,000 classes of ILSVRC2012 by WordNet id, in the order of their labels."""
    table = importlib.resources.files("resnet_jax.weights").joinpath("imagenet_classes.csv").read_text()
    return {row["wnid"]: row["name"] for row in csv.DictReader(table.splitlines())}


def named(name: str) -> Preset:
    """Return the preset of a name. Raises ConfigError for an unknown one, naming the nearest."""
    if name not in presets():
        raise ConfigError(
            f"no preset is called {name!r}{nearest(name, presets())}; docs/weights.md says what there is."
        )
    return presets()[name]


def of_weights(weights: str | Path) -> Preset | None:
    """Return the preset of weights: of a run's folder, of a preset's name, of a Hub name, or of a file by its hash.

    Published files carry the first digits of their hash in their names, as resnet50-0676ba61.pth does, so that one is
    known wherever it lies. None where nothing is known.

    Raises DataError if the preset of a run is damaged.
    """
    if (Path(weights) / RUN_FILE).is_file():
        return _of_run(Path(weights) / RUN_FILE)
    if (text := _written_in(Path(weights))) is not None:
        try:
            return _read(text)
        except ValueError as error:
            raise DataError(f"{weights} has a preset that is damaged: convert the weights again.") from error
    name = str(weights).removeprefix("hf:").removeprefix("timm/")
    if name in presets():
        return presets()[name]
    digits = re.search(r"-[0-9a-f]{8}\.\w+$", str(weights))
    return next((preset for preset in presets().values() if digits and preset.file.endswith(digits[0])), None)


def run_folder(run: str | Path) -> Path | None:
    """Return the folder of a run, also where one of its checkpoints is named; None where no folder is named."""
    path = Path(run)
    if not path.is_dir():
        return None
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _written_in(file: Path) -> str | None:
    """Return the preset that `convert` has written into a file, or None."""
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            return (opened.metadata() or {}).get(METADATA)
    except (OSError, safetensors.SafetensorError):  # named by whoever reads the weights
        return None


def _of_run(file: Path) -> Preset:
    try:
        return _read(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: start the run's training command once more, which writes it.") from error


def _read(text: str) -> Preset:
    """Return the preset that `Preset.write` has written. Raises ValueError if the text is none."""
    try:
        fields = json.loads(text)
        fields |= {name: tuple(fields[name]) for name in ("classes", "mean", "std")}
        fields["classes"] = tuple(imagenet_classes().get(name, name) for name in fields["classes"])
        fields["overrides"] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields["overrides"].items()
        }
        return Preset(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a preset") from error


def default(network: str) -> Preset:
    """Return the first preset of a registered network. Raises ConfigError if it has none, or is not registered."""
    create_model(network)  # names the nearest of an unknown name
    for preset in presets().values():
        if preset.network == network:
            return preset
    raise ConfigError(
        f"no published weights are known for {network}: name your own by --weights, and by --preset one "
        "whose image size and colours they share, such as resnet50.IMAGENET1K_V1."
    )
