"""The README's figure of speeds."""

import io
import pathlib

import numpy as np
from PIL import Image

from benchmarks.speed_figure import draw

ROOT = pathlib.Path(__file__).parents[2]


def test_the_figure_shows_the_records():
    """Other fonts and versions may move its edges; another record moves the bars."""
    kept, drawn = (
        np.asarray(Image.open(file).convert("L"), np.int32)
        for file in (ROOT / "docs" / "images" / "speed.png", io.BytesIO(draw()))
    )
    assert kept.shape == drawn.shape
    assert np.mean(np.abs(kept - drawn) > 64) < 0.002
