"""`verify`: whether packed data is still what was packed."""

import argparse
import pathlib

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from resnet_jax.data.sources.records import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="a folder that `pack` wrote")


def run(args: argparse.Namespace) -> None:
    """Compare each file with its checksum, and say so; what is damaged is an error that names it."""
    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("")
        files = verify(args.folder, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"All {files} files of {args.folder} are what was packed.")
