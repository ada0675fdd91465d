"""Where examples are: `open_dataset` turns the name of a source into a training split and a test split."""

from typing import Any

from resnet_jax.data.sources.archives import open_archives
from resnet_jax.data.sources.cifar import open_cifar, open_fashion_mnist
from resnet_jax.data.sources.dataset import Arrays, Dataset, Split, check_dataset
from resnet_jax.data.sources.digits import open_digits, open_synthetic
from resnet_jax.data.sources.folder import open_folder
from resnet_jax.data.sources.records import open_records
from resnet_jax.data.sources.tfds import open_tfds
from resnet_jax.errors import DataError, nearest
from resnet_jax.lookup import call_with_fields, is_import, lookup

__all__ = ["SOURCES", "Arrays", "Dataset", "Split", "open_dataset"]

SOURCES = ("digits", "cifar10", "cifar100", "fashion_mnist", "tfds:NAME", "folder", "archives", "records", "synthetic")


def open_dataset(
    source: str, path: str | None = None, *, image_size: int, num_classes: int = 1000, **fields: Any
) -> Dataset:
    """Opens a data set by the name of its source.

    Args:
      source: one of `SOURCES`; a TFDS data set is `tfds:NAME`, or `tfds:NAME:CONFIG` (or `tfds:NAME/CONFIG`). Any other
        "module:name" is a function of yours, of those of these arguments that its signature names, to a `Dataset`.
      path: folder of the files; None means the source's own default: a cache folder for what is downloaded, TFDS's
        data folder for `tfds:`. `folder`, `archives` and `records` have no default; `digits` and `synthetic` read
        no files.
      image_size: height and width of `synthetic` images, in pixels; images of other sources keep their own size.
      num_classes: number of classes of `synthetic`; other sources know theirs.
      fields: what a function of yours may name besides: the other fields of config.data.

    Raises:
      DataError: the source is unknown, or its files are missing, damaged or not what they should be.
    """
    match source.split(":", 1):
        case ["digits"]:
            return open_digits()
        case ["cifar10" | "cifar100"]:
            return open_cifar(source, path)
        case ["fashion_mnist"]:
            return open_fashion_mnist(path)
        case ["tfds", name] if name:
            return open_tfds(name, path)
        case ["folder"]:
            return open_folder(path)
        case ["archives"]:
            return open_archives(path)
        case ["records"]:
            return open_records(path)
        case ["synthetic"]:
            return open_synthetic(image_size, num_classes)
        case [module, _] if is_import(source) and module not in (each.partition(":")[0] for each in SOURCES):
            known = dict(path=path, image_size=image_size, num_classes=num_classes) | fields
            opened = call_with_fields("data source", source, lookup("data source", source, {}), known)
            return check_dataset(source, opened)
    raise DataError(
        f"There is no data source {source!r}{nearest(source, SOURCES)}; set data.source to one of {', '.join(SOURCES)},"
        ' or to your own as "module:name".'
    )
