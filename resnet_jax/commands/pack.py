"""`pack`: labelled images to shards that training reads at the speed of the accelerator."""

import argparse
import os
import pathlib

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resnet_jax.data.packing import PackFormat, pack
from resnet_jax.data.sources import Dataset
from resnet_jax.data.sources.archives import TRAIN, open_archives
from resnet_jax.data.sources.folder import open_folder
from resnet_jax.data.sources.tfds import open_tfds
from resnet_jax.errors import ConfigError
from resnet_jax.printable import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder with train/ and val/, each with a folder for each class; a folder with ImageNet's official "
        "archives; or tfds:NAME, prepared as array_record",
    )
    parser.add_argument("folder", metavar="DST", type=pathlib.Path, help="folder for the shards and the index")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--resize", type=int, metavar="N", help="shrink the short side to N pixels and re-encode")
    form.add_argument("--raw", type=int, metavar="N", help="store the pixels of the central N x N instead of JPEGs")
    parser.add_argument("--quality", type=int, default=90, help="quality of re-encoded JPEGs (90)")
    parser.add_argument("--shard-examples", type=int, default=4096, metavar="N", help="examples in each shard (4096)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes (one per core)")
    parser.add_argument("--data-dir", help="TFDS's data folder, if it is not its default")


def run(args: argparse.Namespace) -> None:
    """Pack, showing how far it is, and tell what was packed and what was odd or left out."""
    limits = {"resize": args.resize, "raw": args.raw, "shard-examples": args.shard_examples}
    for name, value in (limits | {"workers": args.workers, "quality": args.quality}).items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value} and must be 1 or more.")
    if args.quality > 100:
        raise ConfigError(f"--quality is {args.quality} and must be 100 or less.")
    form = PackFormat(args.resize or args.raw, args.raw is not None, args.quality)
    console = Console()
    with console.status("Looking for the images"):
        dataset = open_source(args.source, args.data_dir)
    print(*dataset.description, sep="\n", flush=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("")
        index = pack(
            dataset,
            args.folder,
            form,
            shard_examples=args.shard_examples,
            workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for line in summary(index, args.folder):
        print(line)


def open_source(source: str, data_dir: str | None) -> Dataset:
    """Open what is to be packed: a TFDS data set, ImageNet's archives, or a folder of images."""
    if source.startswith("tfds:"):
        return open_tfds(source.removeprefix("tfds:"), data_dir)
    return (open_archives if (pathlib.Path(source) / TRAIN).exists() else open_folder)(source)


def summary(index: dict, folder: pathlib.Path) -> list[str]:
    """Return the lines that tell what was packed, and of what was odd or left out the first three of each."""
    lines = []
    for name, split in index["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"])
        lines.append(
            f"{name}: {split['examples']:,} of {index['given'][name]:,} images in {len(split['shards'])} shards, "
            f"{size / 1e9:.3f} GB, {size / split['examples']:,.0f} bytes an image"
        )
        for kind, outcome in (("broken", "left out, since they cannot be read"), ("odd", "packed, though odd")):
            if split[kind]:
                lines.append(f"  {len(split[kind])} {outcome}; {folder / 'index.json'} names all:")
                lines += [f"    {printable(report['name'])}: {printable(report['why'])}" for report in split[kind][:3]]
    return [*lines, f"To train on it: --config.data.source=records --config.data.path={folder}"]
