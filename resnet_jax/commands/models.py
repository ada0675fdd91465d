"""`models`: the registered networks, what they cost, and what was published of them.

`docs/networks.md` is what it prints with `--format=markdown`.
"""

import argparse
import csv
import fnmatch
import importlib.resources
import json

from resnet_jax.errors import ConfigError
from resnet_jax.lab.report.published import read_published
from resnet_jax.run import tables

HEADING = """# Networks

What `python -m resnet_jax models --format=markdown` prints. Multiply-adds are those of one image of the size given.
Published accuracies are their sources', not this code's. A name that differs from a listed one in its numbers
alone, such as `resnext50_16x8d`, `cifar_resnext29_4x32d` or `cifar_plain26`, is a network too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="shell-style pattern, such as 'resnext*', or one name",
    )
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")


def run(args: argparse.Namespace) -> None:
    """Show the networks that match the pattern."""
    show(rows(args.pattern), args.format)


def rows(pattern: str) -> list[dict]:
    """Return a row for each registered name that matches a pattern: parameters, multiply-adds, and what was published.

    The costs of listed names come from a table (`models/costs.csv`), those of others from their traced program.

    Raises ConfigError if none matches.
    """
    published = {row.name: row for row in reversed(read_published()) if not row.variant}  # the first counts
    table = importlib.resources.files("resnet_jax.models").joinpath("costs.csv").read_text()
    costs = [row for row in csv.DictReader(table.splitlines()) if fnmatch.fnmatch(row["name"], pattern)]
    costs = [row | {field: int(row[field]) for field in ("params", "macs", "image_size")} for row in costs]
    found = []
    for row in costs or traced(pattern):
        known = published.get(str(row["name"]))
        row["top1"] = known.top1 if known else None
        row["source"] = f"{known.dataset}, {known.source}" if known else None
        found.append(row)
    return found


def traced(name: str) -> list[dict]:
    """Return the costs of a network that is not listed, in a list. Raises ConfigError if there is no such network."""
    from resnet_jax.models.registry import create_model, find, image_shape  # JAX takes a second to import
    from resnet_jax.models.summary import costs

    if not find(name):
        raise ConfigError(f"no network matches {name!r}; python -m resnet_jax models lists all.")
    shape = image_shape(name)
    return [{"name": name, **costs(create_model(name), shape)._asdict(), "image_size": shape[0]}]


def show(rows: list[dict], style: str) -> None:
    """Print the rows as a table for a terminal, as Markdown, or as JSON."""
    if style == "json":
        print(json.dumps(rows, indent=2))
        return
    header = ("name", "#parameters", "#multiply-adds", "#image", "#published top-1", "source")
    cells = [
        (
            row["name"],
            f"{row['params']:,}",
            f"{row['macs'] / 1e9:.3f} G",
            str(row["image_size"]),
            f"{100 * row['top1']:.2f} %" if row["top1"] else "",
            row["source"] or "",
        )
        for row in rows
    ]
    if style == "markdown":
        print(HEADING)
    tables.show(header, cells, style=style)
