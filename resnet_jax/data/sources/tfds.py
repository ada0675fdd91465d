"""Data sets of TensorFlow Datasets, read without TensorFlow from the array_record files that TFDS prepared."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from resnet_jax.errors import DataError, library


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A split of a prepared TFDS data set: images as they are encoded in it, read when asked for."""

    examples: Sequence

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            example = self.examples[index]
        except Exception as error:  # ArrayRecord raises what its C++ library says
            raise DataError(f"TFDS cannot read it ({error}): prepare the data set again.") from error
        return example["image"], int(example["label"])

    def name(self, index: int) -> str:
        """The file's name where the data set keeps it, else the example's number."""
        with contextlib.suppress(Exception):  # an example that cannot be read has no name either
            return os.fsdecode(self.examples[index]["file_name"])
        return f"example {index}"


def open_tfds(name: str, path: str | None) -> Dataset:
    """Opens a TFDS data set that has an `image` and a `label`: its split train, and validation or else test.

    Args:
      name: as TFDS writes it (`imagenet2012`, `imagenette/320px-v2`, `mnist:3.0.1`), or with a colon before the config
        (`imagenette:320px-v2`).
      path: TFDS's `data_dir`; None means TFDS's default.

    Raises:
      DataError: the data set is unknown, not prepared as array_record, or not one of labelled images.
    """
    for place in (path or "", name):
        if "://" in place:
            raise DataError(f"{place} is an address: copy the data set from there, and set data.path to its folder.")

    tfds = library("tensorflow_datasets")

    # A colon before what is no version is the config's: tfds:NAME:CONFIG reads better in a flag than a slash.
    name = re.sub(r":(?!(\d+|\*)\.)", "/", name, count=1)
    location = f", data_dir={path!r}" if path else ""
    prepare = (
        f'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}{location}, file_format='array_record').download_and_prepare()\""
    )
    try:
        builder: Any = tfds.builder(name, data_dir=path or None)
    except (ValueError, AssertionError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(f"TFDS cannot open {name!r} ({reason}): correct data.source or data.path.") from error
    if not builder.is_prepared():
        raise DataError(
            f"{name} is not prepared in {builder.data_dir}: set data.path to TFDS's data_dir, or prepare it where "
            f"TensorFlow is installed by {prepare}"
        )

    features, splits = dict(builder.info.features.items()), builder.info.splits
    image, label = features.get("image"), features.get("label")
    if label is None or not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise DataError(f"{name} has no image with a label: choose a TFDS data set for image classification.")
    test = next((split for split in ("validation", "test") if split in splits), None)
    if "train" not in splits or test is None:
        raise DataError(f"{name} has the splits {', '.join(splits)}, but train and validation or test are needed.")

    def split(name: str) -> Prepared:
        # The bytes as they are encoded: they are decoded once, later, as those of every other source.
        return Prepared(builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()}))

    try:
        places = f"TFDS's split train of {name}", f"its split {test}"
        return Dataset(split("train"), split(test), tuple(label.names), IMAGENET_MEAN, IMAGENET_STD, places)
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_dir} holds {name} in a format without random access: set data.path to another folder and "
            f"prepare it there, where TensorFlow is installed, by {prepare} with that folder as data_dir."
        ) from error
