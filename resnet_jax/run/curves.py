"""The picture of one run: loss, accuracy and learning rate over its epochs."""

import io
import os
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from resnet_jax.run.drawing import drawn
from resnet_jax.run.files import write_atomically

# Drawn in this order, so that the evaluations are on top. The colours are distinguishable for colour-blind readers.
_SPLITS = {"train": ("train", "#56758f"), "test": ("test", "#d55e00"), "test_ema": ("test, EMA", "#009e73")}
_POINTS_TO_SMOOTH = 100
_POINTS_WITH_MARKERS = 40


def draw_curves(metrics: list[dict[str, Any]], file: str | os.PathLike, title: str) -> None:
    """Draws the records of a `metrics.jsonl` to a PNG.

    Args:
        metrics: Records of the splits "train", "test" and "test_ema", any of which may be missing; each has `epoch`
            and may have `loss`, `top1` and `learning_rate`, where None is a number that was not finite.
        file: The picture's path.
        title: The line above the panels.
    """
    figure = Figure(figsize=(12, 4), dpi=130, layout=ConstrainedLayoutEngine(wspace=0.05))
    figure.suptitle(title, fontsize=12)
    loss, accuracy, learning_rate = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    _draw_splits(loss, metrics, "loss", "{:.4f}")
    _draw_splits(accuracy, metrics, "top1", "{:.2f}", factor=100)
    epochs, values = _series(metrics, "train", "learning_rate")
    learning_rate.plot(
        epochs, values, color="#404040", linewidth=1.5, marker="o" if values.size == 1 else None, markersize=3
    )
    _use_log_scale_if_wide(loss)
    for axes, label in ((loss, "loss"), (accuracy, "top-1 accuracy (%)"), (learning_rate, "learning rate")):
        _dress(axes, label)
    picture = io.BytesIO()
    drawn(figure).save(picture, "PNG")
    write_atomically(file, picture.getvalue())


def _draw_splits(axes: Axes, metrics: list[dict[str, Any]], name: str, form: str, factor: float = 1) -> None:
    """Draws one metric of every split that has it; the legend above the panel gives where each line ends."""
    for split, (label, colour) in _SPLITS.items():
        epochs, values = _series(metrics, split, name)
        values = factor * values
        # An evaluation is a result, which nothing may smooth.
        if split == "train" and values.size > _POINTS_TO_SMOOTH:
            axes.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.3)
            values = _smoothed(values)
        if values.size:
            marker = "o" if values.size <= _POINTS_WITH_MARKERS else None
            label = f"{label} {form.format(values[-1])}"
            axes.plot(epochs, values, color=colour, linewidth=1.5, marker=marker, markersize=3, label=label)
    if axes.lines:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(_SPLITS),
            frameon=False,
            fontsize=9,
            borderaxespad=0.2,
            handlelength=1,
            handletextpad=0.5,
            columnspacing=1.2,
        )


def _series(metrics: list[dict[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of one metric, where it is finite."""
    points = [(r["epoch"], r[name]) for r in metrics if r["split"] == split and r.get(name) is not None]
    epochs, values = np.array(points, dtype=float).reshape(-1, 2).T
    return epochs, values


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of the values around each; of fewer at the ends, so that the ends are not bent."""
    window = np.ones(2 * (values.size // 100) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _use_log_scale_if_wide(axes: Axes) -> None:
    """Sets a logarithmic y axis if the values, all positive, span more than a factor of ten."""
    values = np.concatenate([line.get_ydata() for line in axes.lines]) if axes.lines else np.empty(0)
    if values.size and 0 < 10 * values.min() < values.max():
        axes.set_yscale("log")
        if values.max() < 1e4 * values.min():
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _dress(axes: Axes, label: str) -> None:
    """Gives a panel its labels, ticks and grid, and says so if it is empty."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=2))
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not any(np.size(line.get_xdata()) for line in axes.lines):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite values", color="#808080", ha="center", transform=axes.transAxes)
