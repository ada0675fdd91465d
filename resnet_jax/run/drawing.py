"""What the figures have in common: lines that print without colour, dressed axes, and small files."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image

from resnet_jax.printable import printable

LONGEST_LABEL = 120  # characters of a line

# Lines differ in dashes, marker and brightness as well as in colour: print and the colour-blind can tell them apart.
STYLES: tuple[dict[str, Any], ...] = (
    dict(color="#1b4f8a", linestyle="-", marker="o"),
    dict(color="#d55e00", linestyle="--", marker="s"),
    dict(color="#009e73", linestyle="-.", marker="^"),
    dict(color="#7a3b8f", linestyle=":", marker="D"),
    dict(color="#303030", linestyle=(0, (5, 1, 1, 1, 1, 1)), marker="v"),
    dict(color="#56b4e9", linestyle=(0, (8, 2)), marker="P"),
    dict(color="#7a6a00", linestyle=(0, (1, 1)), marker="X"),
    dict(color="#999999", linestyle=(0, (3, 1)), marker="<"),
    dict(color="#8c3b00", linestyle=(0, (6, 1, 2, 1)), marker=">"),
)
GRID = "#e4e4e4"


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Give a panel its labels and a grid behind the data, and remove two sides of its frame."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG of 256 colours, which are enough for lines and greys and make it a third as large."""
    image = drawn(figure).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture = io.BytesIO()
    image.save(picture, "PNG", optimize=True)
    return picture.getvalue()


def drawn(figure: Figure) -> Image.Image:
    """Returns a figure's picture, with the names in titles, labels, legends and texts as they are: not as formulas."""
    for text in _texts(figure):
        text.set_parse_math(False)
        text.set_text("\n".join(printable(line, LONGEST_LABEL) for line in text.get_text().split("\n")))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))


def _texts(figure: Figure) -> Iterator[Text]:
    """Yields the texts of a figure, except those at its ticks."""
    children = [*figure.texts, *figure.legends]
    for axes in figure.axes:
        children += [*axes.get_children(), axes.xaxis.label, axes.yaxis.label]
    for child in children:
        yield from child.get_texts() if isinstance(child, Legend) else [child] if isinstance(child, Text) else []
