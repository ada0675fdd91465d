"""The published results, of `published.csv`: what was reached elsewhere, with its source."""

import csv
import importlib.resources
from typing import NamedTuple


class Published(NamedTuple):
    """One published result.

    Attributes:
      name: of a network.
      variant: the fields in which the network of the result differs, such as "shortcut=C"; empty if none.
      dataset: "imagenet", "cifar10" or "cifar100".
      top1: accuracy on its validation or test images, a fraction.
      spread: standard deviation over runs, a fraction; None where none was published.
      epochs: of training; None where they were not published.
      source: the paper with its table, or the library with its version.
    """

    name: str
    variant: str
    dataset: str
    top1: float
    spread: float | None
    epochs: float | None
    source: str

    @property
    def key(self) -> str:
        """Name and variant, as sweeps name it."""
        return f"{self.name} {self.variant}".rstrip()

    @property
    def network(self) -> str:
        """Name and variant, as a run of the same network has them."""
        from resnet_jax.models.registry import named  # JAX takes a second to import

        return named(self.name, dict(field.split("=") for field in self.variant.split()))


def read_published() -> list[Published]:
    """Return all published results in the order of the file."""
    text = importlib.resources.files("resnet_jax.lab.report").joinpath("published.csv").read_text()
    return [
        Published(
            row["name"],
            row["variant"],
            row["dataset"],
            float(row["top1"]),
            float(row["spread"]) if row["spread"] else None,
            float(row["epochs"]) if row["epochs"] else None,
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


def find_published(key: str, dataset: str, source: str = "") -> Published | None:
    """Return the result of a name and variant on a dataset, or None.

    Of several, that of `source` is taken, a paper as "Xie et al. 2017", and of these the mean over runs.
    """
    found = [row for row in read_published() if row.key == key and row.dataset == dataset]
    found.sort(key=lambda row: (not (source and row.source.startswith(source)), row.spread is None))
    return found[0] if found else None
