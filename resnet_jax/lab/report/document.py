"""A page of headings, texts, tables and figures, as Markdown and as one HTML file that needs nothing beside it."""

import base64
import dataclasses
import html
from collections.abc import Sequence

from resnet_jax.printable import printable
from resnet_jax.run.tables import markdown

LONGEST_TEXT = 4000  # characters of a paragraph

STYLE = """
body { max-width: 74rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
td { overflow-wrap: anywhere; }
th { border-bottom: 2px solid #888; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
p, figure { max-width: 62rem; }
figure { margin: 1rem 0; break-inside: avoid; }
figure img { max-width: 100%; }
figcaption { color: #444; font-size: 14px; }
div.table { overflow-x: auto; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } h2 { break-before: page; } }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading of a level from 1."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts under a header; columns whose names begin with "#" hold numbers and are aligned right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
      name: of its file, without the suffix.
      png: its bytes.
      caption: what it shows.
    """

    name: str
    png: bytes
    caption: str


Part = Heading | Text | Table | Figure


def plain(part: Part) -> Part:
    """Return a part whose texts are printable, whatever characters the files contained."""
    match part:
        case Heading(text, level):
            return Heading(printable(text), level)
        case Text(text):
            return Text(printable(text, LONGEST_TEXT))
        case Table(header, rows):
            return Table([printable(name) for name in header], [[printable(cell) for cell in row] for row in rows])
        case Figure(name, png, caption):
            return Figure(printable(name), png, printable(caption, LONGEST_TEXT))


def to_markdown(parts: Sequence[Part], folder: str) -> str:
    """Return the page as Markdown; its figures are `folder`/NAME.png."""
    # An HTML tag in a name is text, also where the page is shown.
    return "\n\n".join(_markdown(plain(part), folder).replace("<", "&lt;") for part in parts) + "\n"


def _markdown(part: Part, folder: str) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {part.text}"
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Figure):
        return f"![{part.name}]({folder}/{part.name}.png)\n\n{part.caption}"
    return markdown(part.header, part.rows)


def to_html(parts: Sequence[Part], title: str) -> str:
    """Return the page as one HTML file, with its figures inside."""
    body = "\n".join(_html(plain(part)) for part in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h{part.level}>{html.escape(part.text)}</h{part.level}>"
    if isinstance(part, Text):
        return f"<p>{html.escape(part.text)}</p>"
    if isinstance(part, Figure):
        picture, caption = base64.b64encode(part.png).decode(), html.escape(part.caption)
        return (
            f'<figure><img src="data:image/png;base64,{picture}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    numbers = [name.startswith("#") for name in part.header]

    def line(cells, kind):
        marked = (
            f"<{kind}{' class=number' if number else ''}>{html.escape(cell)}</{kind}>"
            for cell, number in zip(cells, numbers, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    head = line([name.lstrip("#") for name in part.header], "th")
    rows = "\n".join(line(row, "td") for row in part.rows)
    return f'<div class="table"><table>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'
