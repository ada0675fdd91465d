"""Presets: what known weights expect of an image, what they say about it, and what was published of them."""

import csv
import dataclasses
import functools
import importlib.resources
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import safetensors

from resnet_jax.errors import ConfigError, DataError, nearest
from resnet_jax.lookup import is_import
from resnet_jax.models.registry import create_model
from resnet_jax.printable import printable
from resnet_jax.run.reading import read_file

RUN_FILE = "preset.json"
METADATA = "preset"  # the name of a preset in the header of a safetensors file
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
LARGEST = 2**24  # bytes of a run's preset
LONGEST_NAME = 100  # characters of a network's name
MOST_BLOCKS = 1000  # of a network of somebody else's preset: ResNet-1202 has 600
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
    mean, std = (tuple(float(value) for value in row[name].split()) for name in ("mean", "std"))
    top1, top5 = (float(row[name]) if row[name] else None for name in ("top1", "top5"))
    return Preset(
        name=row["name"],
        network=row["network"],
        dataset=row["dataset"],
        weights=row["weights"],
        interpolation=row["interpolation"],
        source=row["source"],
        overrides=dict(pair.split("=") for pair in row["overrides"].split()),
        classes=CIFAR10_CLASSES if row["dataset"] == "cifar10" else tuple(imagenet_classes().values()),
        resize=int(row["resize"]),
        size=int(row["size"]),
        mean=mean,
        std=std,
        top1=top1,
        top5=top5,
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
    """Return the preset of weights: of a run or its checkpoint, of a preset's or a Hub name, or of a file by its hash.

    Published files carry the first digits of their hash in their names, as resnet50-0676ba61.pth does, so that one is
    known wherever it lies. None where nothing is known.

    Raises DataError if the preset of a run is damaged.
    """
    for folder in (Path(weights), run_folder(weights)):
        if folder is not None and os.path.lexists(folder / RUN_FILE):
            return _of_run(folder / RUN_FILE)
    if (text := _written_in(Path(weights))) is not None:
        try:
            return _read(text, weights)
        except ValueError as error:
            raise DataError(f"{weights} has a preset that is damaged: convert the weights again.") from error
    name = str(weights).removeprefix("hf:").removeprefix("timm/")
    if name in presets():
        return presets()[name]
    digits = re.search(r"-[0-9a-f]{8}\.\w+$", str(weights))
    return next((preset for preset in presets().values() if digits and preset.file.endswith(digits[0])), None)


def run_folder(path: str | Path) -> Path | None:
    """Return the folder of a run, also where one of its checkpoints is named; None where no folder is named."""
    path = Path(path)
    if not path.is_dir():
        return None
    absolute = path.absolute()
    return absolute.parents[1] if absolute.parent.name == "checkpoints" else path


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
    """Return the preset that a run has written, or somebody who says so."""
    try:
        return _read(read_file(file, LARGEST), file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is damaged ({error}): start the run's training command once more, which writes it."
        ) from error


def _read(text: str | bytes, file: str | Path) -> Preset:
    """Return the preset that `Preset.write` has written, or somebody who says so.

    Raises ValueError if it is none, ConfigError if it names code that is not imported.
    """
    try:
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("classes", "mean", "std")}
        classes = tuple(imagenet_classes().get(name, name) for name in lists["classes"])
        overrides = {name: _tupled(value) for name, value in fields["overrides"].items()}
        preset = Preset(**fields | lists | {"classes": classes, "overrides": overrides})
        check_code(preset, file)
        checked(preset)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return preset


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def check_code(preset: Preset, file: str | Path) -> None:
    """Raise ConfigError if a preset names code that is not imported: a file must not get any imported.

    It may name what the user has named by a config, or imported.
    """
    named = [text for text in (preset.network, *preset.overrides.values()) if type(text) is str and is_import(text)]
    if foreign := [text for text in named if text.partition(":")[0] not in sys.modules]:
        raise ConfigError(
            f"{file} names code that is not the project's ({printable(foreign[0])}): name the config file with that "
            "code by --config."
        )


def checked(preset: Preset) -> None:
    """Raise ValueError, which names the field, unless a preset's fields have values of their kind that can be used."""

    def number(value, least, most):
        return type(value) in (int, float) and least <= value <= most

    texts = ("name", "network", "dataset", "weights", "source")
    sound = {name: type(getattr(preset, name)) is str for name in texts}
    sound |= {name: type(size := getattr(preset, name)) is int and 1 <= size <= 8192 for name in ("resize", "size")}
    sound["mean"] = len(preset.mean) in (1, 3) and all(number(value, -1e6, 1e6) for value in preset.mean)
    sound["std"] = len(preset.std) in (1, 3) and all(number(value, 1e-6, 1e6) for value in preset.std)
    sound["interpolation"] = preset.interpolation in INTERPOLATIONS
    sound["classes"] = all(type(label) is str for label in preset.classes)
    sound |= {name: (top := getattr(preset, name)) is None or number(top, 0, 1) for name in ("top1", "top5")}
    if odd := [name for name, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"{odd[0]} has a value that it cannot have")
    own = {"num_classes": preset.overrides.get("num_classes")} if is_import(preset.network) else {}
    registered = create_model(preset.network[:LONGEST_NAME], **own)
    for name, value in preset.overrides.items():
        kind = type(getattr(registered, name, None))
        if not (type(value) is kind or (kind, type(value)) == (float, int) or kind is type(None)) or not small(value):
            raise ValueError(f"the network's field {printable(name)} has a value that it cannot have")
    model = create_model(preset.network, **preset.overrides)
    blocks = sum(getattr(model, "stage_sizes", None) or getattr(model, "block_sizes", ()))
    if blocks > MOST_BLOCKS:
        raise ValueError(f"its network has {blocks:,} blocks, where {MOST_BLOCKS:,} are allowed")


def small(value: Any) -> bool:
    """Return whether a field's value is text or made of numbers that are not huge."""
    if isinstance(value, tuple):
        return len(value) <= 100 and all(type(each) in (int, float) and small(each) for each in value)
    return type(value) is str or (isinstance(value, int | float) and abs(value) <= 10**5)


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
