"""What the figures have in common: lines that print without colour, dressed axes, and small files."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

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
    """Gives a panel its labels and a grid that lies behind, and takes two sides of its frame away."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG of 256 colours, which are enough for lines and greys and make it a third as large."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture = io.BytesIO()
    image.save(picture, "PNG", optimize=True)
    return picture.getvalue()
