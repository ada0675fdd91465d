"""Tables for a terminal and in Markdown. A column whose name begins with "#" holds numbers: it is set to the right."""

import itertools
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_jax.printable import printable

WIDTH = 160  # characters of a line where the output is no terminal


def show(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", total: Sequence[str] = (), style: str = ""
) -> None:
    """Print a table, for a terminal or, with the style "markdown", in Markdown.

    Args:
      header: names of the columns.
      rows: their cells, which may hold text of anybody. A row without a first cell continues the row above.
      title: printed above a table for a terminal.
      total: cells of the last row.
      style: "markdown", or anything else for a terminal.
    """
    rows = list(rows)
    if style == "markdown":
        print(markdown(header, [*rows, total] if total else rows))
        return
    table = Table(title=title or None, show_footer=bool(total))
    for name, last in itertools.zip_longest(header, total, fillvalue=""):
        table.add_column(
            cell(name.lstrip("#")), cell(last), justify="right" if name.startswith("#") else "left", overflow="fold"
        )
    continued = any(not row[0] for row in rows)
    for row in rows:
        if continued and row[0]:
            table.add_section()
        table.add_row(*map(cell, row))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rules = ["---:" if name.startswith("#") else "---" for name in header]
    cells = ([text.replace("|", "\\|") for text in row] for row in rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in ([name.lstrip("#") for name in header], rules, *cells))


def cell(text: str) -> str:
    """Return text that a terminal can show, without rich's markup."""
    return escape(printable(text, 1000))
