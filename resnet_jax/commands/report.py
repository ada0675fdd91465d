"""`report`: tables and figures from run directories, with what was published beside them."""

import argparse
import pathlib
import sys

from resnet_jax.errors import ConfigError
from resnet_jax.lab.report.document import Figure, Part, to_html, to_markdown
from resnet_jax.lab.report.page import TITLES, page, published_parts
from resnet_jax.lab.report.runs import find
from resnet_jax.printable import printable
from resnet_jax.run.files import disk_errors, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders of runs or sweeps, or folders of such folders")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="PAGE.html",
        help="write one page that needs nothing beside it, the same as PAGE.md, and the figures to PAGE_figures/; "
        "without it, Markdown without figures is printed",
    )
    parser.add_argument("--published", action="store_true", help="print what was published, with its sources")


def run(args: argparse.Namespace) -> None:
    """Print the report, or write it."""
    if args.published:
        print(to_markdown([part for dataset in TITLES for part in published_parts(dataset, None)], ""), end="")
        return
    if not args.runs:
        raise ConfigError("no runs are named: give their folders, such as `report runs/degradation`, or --published.")
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
