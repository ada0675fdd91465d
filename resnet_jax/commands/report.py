"""`report`: tables and figures from run directories, with what was published beside them."""

import argparse
import pathlib
import sys

from resnet_jax.errors import ConfigError
from resnet_jax.lab.report.document import Figure, Part, to_html, to_markdown
from resnet_jax.lab.report.page import TITLES, page, published_parts
from resnet_jax.lab.report.runs import find, records
from resnet_jax.printable import printable
from resnet_jax.run.archives import SUFFIX, packed
from resnet_jax.run.files import disk_errors, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUNS", help="folders or archives of runs or sweeps, or folders of such folders"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="PAGE.html",
        help="write one page that needs nothing beside it, the same as PAGE.md, and the figures to PAGE_figures/; "
        "without it, Markdown without figures is printed",
    )
    parser.add_argument(
        "--archive",
        type=pathlib.Path,
        metavar="FILE.zip",
        help="pack what a report reads of one folder into one file, which `report` reads as the folder, "
        "and write no report",
    )
    parser.add_argument("--published", action="store_true", help="print what was published, with its sources")


def run(args: argparse.Namespace) -> None:
    """Print the report, or write it."""
    if args.published:
        print(to_markdown([part for dataset in TITLES for part in published_parts(dataset, None)], ""), end="")
        return
    if not args.runs:
        raise ConfigError("no runs are named: give their folders, such as `report runs/degradation`, or --published.")
    if args.archive is not None:
        archive(args.runs, args.archive)
        return
    if args.out is not None and args.out.suffix != ".html":
        raise ConfigError(f"--out={args.out} is no page: name a file that ends with .html.")
    notes: list[str] = []
    parts = page(find(args.runs, notes), notes)
    if args.out is None:
        print(to_markdown([part for part in parts if not isinstance(part, Figure)], ""), end="")
    else:
        write(parts, args.out)
    for note in notes:
        print(printable(note, 1000), file=sys.stderr)


def archive(folders: list[str], file: pathlib.Path) -> None:
    """Pack the records of a folder.

    Raises UserError if there is not one folder with records, or if the file cannot be written.
    """
    if len(folders) != 1 or file.suffix != SUFFIX:
        raise ConfigError("--archive packs one folder: `report runs/degradation --archive=degradation.zip`.")
    files = records(pathlib.Path(folders[0]))
    if not files:
        raise ConfigError(f"{folders[0]} has no records of runs: name the folder of a run or a sweep.")
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, packed(files))
    print(f"{file} has {len(files)} files of {folders[0]}: configs, metrics, summaries and measurements.")


def write(parts: list[Part], file: pathlib.Path) -> None:
    """Write the page as HTML and as Markdown, and its figures beside them."""
    figures = file.with_name(f"{file.stem}_figures")
    pictures = [part for part in parts if isinstance(part, Figure)]
    with disk_errors(file):
        (figures if pictures else file.parent).mkdir(parents=True, exist_ok=True)
    for part in pictures:
        write_atomically(figures / f"{part.name}.png", part.png)
    write_atomically(file.with_suffix(".md"), to_markdown(parts, figures.name).encode())
    write_atomically(file, to_html(parts, "resnet_jax: report").encode())
    counted = "1 figure are" if len(pictures) == 1 else f"{len(pictures)} figures are"
    print(f"{file}, {file.with_suffix('.md').name} and {counted} written.")
