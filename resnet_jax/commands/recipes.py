"""`recipes`: the published recipes, and each beside what its source says.

`docs/recipes.md` is what it prints with `--format=markdown`.
"""

import argparse
from typing import Any

from resnet_jax.commands import estimate
from resnet_jax.commands.configs import load
from resnet_jax.config import typed_config
from resnet_jax.config.files import CONFIGS
from resnet_jax.lab.report.recipes import Source, compare, find_source, read_sources
from resnet_jax.run import tables

SOURCES = CONFIGS / "sources.toml"
HEADING = """# Recipes

What `python -m resnet_jax recipes --format=markdown` prints. `python -m resnet_jax recipes NAME` shows a recipe field
by field beside what its source says; `configs/sources.toml` holds that, with the file or page of each group of fields,
and a test compares all of it. `configs/recipes.py` tells in prose what a recipe does, and what of its source no field
can say.

`--config=` of `main.py` takes what is under "config"; `configs/resnet18.py` to `resnet152.py` and `resnext50_32x4d.py`
take the same names after the colon. Published accuracies are their sources', not this code's: no ImageNet recipe
has been trained here yet. Of "pixels", the last are those of evaluation.
"""
DIFFERENCES = """
## What differs from the sources

Of each field that has another value here than in the recipe's source, the source's value and the reason.
"""
ESTIMATE = """
## How long a recipe takes

    python -m resnet_jax estimate --config=configs/resnet50.py:rsb_a2 --images-per-second=2470 --devices=8 --price=3.5

prints the images of training and evaluation, the time of both, the device-hours and their cost, from a throughput that
was measured: on the command line as here, or by `--from=FILE` a record of `results/step/` or a run's `summary.json`. It
counts an image by its pixels, so that `data.size_schedule` and a recipe that trains at 160 pixels are cheaper, and an
evaluation as a third of a training step; `--input-images-per-second` says how fast the hosts read, where that may be
the limit. For the command above, of which the throughput is NVIDIA's for PyTorch on an A100 and the price is invented:

"""
EXAMPLE = ["--config=configs/resnet50.py:rsb_a2", "--images-per-second=2470", "--devices=8", "--price=3.5"]
HEADER = ("recipe", "config", "epochs", "batch", "optimizer", "pixels", "published top-1", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", help="name of a recipe; default: list all")
    parser.add_argument("--format", choices=("table", "markdown"), default="table")


def run(args: argparse.Namespace) -> None:
    """Show one recipe beside its source, or list all."""
    sources = read_sources(SOURCES)
    chosen = [find_source(sources, args.name)] if args.name else list(sources.values())
    if args.name:
        print(f"{chosen[0].config}: {chosen[0].source}")
        tables.show(("field", "here", "source", "where", "why it differs"), beside(chosen[0]), style=args.format)
        return
    if args.format == "markdown":
        print(HEADING)
    tables.show(HEADER, [line(source) for source in chosen], style=args.format)
    if args.format == "markdown":
        print(DIFFERENCES)
        tables.show(("recipe", "field", "here", "source", "why"), differences(chosen), style=args.format)
        print(ESTIMATE, end="")
        parser = argparse.ArgumentParser()
        estimate.add_arguments(parser)
        rows, basis = estimate.estimated(parser.parse_args(EXAMPLE))
        print("\n".join(f"    {name:20}{value}" for name, value in rows))
        print(f"\n{basis}")


def line(source: Source) -> tuple[str, ...]:
    """Return what the list says of a recipe."""
    config = typed_config(load(source.config))
    epochs = f"{config.training.steps:,} steps" if config.training.steps else f"{config.training.epochs:g}"
    sizes = [config.data.image_size, *(size for _, size in config.data.size_schedule)]
    pixels = f"{' to '.join(map(str, sizes))}, {config.data.eval_size or sizes[0]}"
    return (
        source.name,
        f"`{source.config}`",
        epochs,
        f"{config.training.batch_size:,}",
        f"{config.optimizer.name} {config.optimizer.learning_rate:g}, {config.schedule.name}",
        pixels if config.data.source == "folder" else "32",
        ", ".join(f"{network} {top1:.2f} %" for network, top1 in source.published.items()),
        source.source,
    )


def beside(source: Source) -> list[tuple[str, ...]]:
    """Return each field of a recipe beside its source's."""
    rows = compare(source, load(source.config))
    return [(row.field, text(row.ours), text(row.theirs), row.where, row.verdict) for row in rows]


def differences(sources: list[Source]) -> list[tuple[str, ...]]:
    """Return the fields that differ, those of recipes alike once."""
    found: dict[tuple[str, ...], list[str]] = {}
    for source in sources:
        for field, ours, theirs, _, verdict in beside(source):
            if verdict:
                found.setdefault((field, ours, theirs, verdict), []).append(source.name)
    return [(", ".join(names), *row) for row, names in found.items()]


def text(value: Any) -> str:
    """Return a value as the command line of `main.py` writes it."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(text, value))})"
    return f"{value:.8g}" if isinstance(value, float) else str(value)
