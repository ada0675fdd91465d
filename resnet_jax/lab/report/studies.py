"""The figures of a study: what its variants reach, and their learning curves, as mean and spread over seeds."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from resnet_jax.lab.report.published import Published
from resnet_jax.lab.report.runs import Row, Run, Study
from resnet_jax.run.drawing import STYLES, dress, png

LEAST_ERROR = 0.1  # percent; what is less is drawn here, as a logarithmic axis has no zero


def draw_results(study: Study, published: dict[str, Published]) -> bytes:
    """Return a PNG of test error and training loss by variant, a line a series, with what was published hollow.

    Points are means over seeds, bars their standard deviation, small dots the runs.

    Args:
      study: with at least one finished run.
      published: of a row's label; those that are missing were not published.
    """
    figure = Figure(figsize=(11, 4), dpi=130, layout="constrained")
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(row.series for row in study.rows))
    measured = (
        ("top-1 test error (%)", lambda run: run.test_error, {k: 100 * (1 - p.top1) for k, p in published.items()}),
        ("training loss, last epoch", lambda run: run.training_loss, {}),
    )
    for axes, (name, value, known) in zip(panels, measured, strict=True):
        numeric = all(row.x is not None for row in study.rows)
        ticks = {} if numeric else dict.fromkeys(_tick(row) for row in study.rows)
        places = {tick: place for place, tick in enumerate(ticks)}
        for number, series in enumerate(names):
            rows = [row for row in study.rows if row.series == series]
            beside = 0.14 * (number - (len(names) - 1) / 2)  # so that series do not hide each other
            at = [row.x if numeric else places[_tick(row)] + beside for row in rows]
            _draw_series(axes, rows, at, value, known, series, STYLES[number % len(STYLES)], joined=numeric)
        if numeric:
            _numeric_axis(axes, sorted({row.x for row in study.rows if row.x is not None}))
        else:
            axes.set_xticks(list(places.values()), list(places), rotation=20, ha="right", rotation_mode="anchor")
            axes.set_xlim(-0.5, len(places) - 0.5)
        _dress(axes, study.axis, name)
        if axes.get_legend_handles_labels()[0] and (len(names) > 1 or known):
            axes.legend(frameon=False, fontsize=9)
    return png(figure)


def draw_learning_curves(study: Study) -> bytes:
    """Return a PNG of training loss and test error over the epochs, a row of panels a series, a line a variant.

    Lines are means over seeds, bands reach from the least to the greatest. Both axes are logarithmic.
    """
    names = [
        name
        for name in dict.fromkeys(row.series for row in study.rows)
        if any(row.done for row in study.rows if row.series == name)
    ]
    figure = Figure(figsize=(11, 0.6 + 3.4 * len(names)), dpi=130, layout="constrained")
    grid = figure.subplots(len(names), 2, squeeze=False, sharex=True, sharey="col")
    for panels, series in zip(grid, names, strict=True):
        rows = [row for row in study.rows if row.series == series and row.done]
        for number, row in enumerate(rows):
            style = STYLES[number % len(STYLES)]
            _draw_curve(panels[0], row, "train", lambda record: record["loss"], style)
            _draw_curve(panels[1], row, "test", _error, style)
        for axes, name in zip(panels, ("training loss", "top-1 test error (%)"), strict=True):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(series, fontsize=10, loc="left")
            _dress(axes, "epoch", name)
        for axes in panels:
            if not axes.lines:
                axes.text(0.5, 0.5, "nothing measured", color="#808080", ha="center", transform=axes.transAxes)
        lines = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if lines:
            place = dict(loc="center left", bbox_to_anchor=(1, 0.5))
            panels[1].legend(lines.values(), lines.keys(), frameon=False, fontsize=9, handlelength=3, **place)
    return png(figure)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation where there are two values or more."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def _draw_series(axes: Axes, rows: list[Row], at, value, known, series: str, style, joined: bool) -> None:
    colour, marker = style["color"], style["marker"]
    points = [
        (x, *mean_and_deviation(values), values)
        for row, x in zip(rows, at, strict=True)
        if (values := [number for run in row.done if (number := value(run)) is not None])
    ]
    if points:
        xs, means, deviations, each = zip(*points, strict=True)
        axes.errorbar(
            xs,
            means,
            yerr=[deviation or 0 for deviation in deviations],
            color=colour,
            linestyle=style["linestyle"] if joined else "none",
            marker=marker,
            markersize=6,
            linewidth=1.6,
            capsize=3,
            label=series or "ours",
        )
        for x, values in zip(xs, each, strict=True):
            axes.plot([x] * len(values), values, ".", color=colour, alpha=0.45, markersize=4)
    if theirs := [(x, known[row.label]) for row, x in zip(rows, at, strict=True) if row.label in known]:
        label = f"{series}, published" if series else "published"
        axes.plot(*zip(*theirs, strict=True), marker, color=colour, fillstyle="none", markersize=9, label=label)


def _draw_curve(axes: Axes, row: Row, split: str, value, style) -> None:
    """Draw the mean of a variant's runs, at the epochs that all of them have."""
    curves = [_curve(run, split, value) for run in row.done]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not epochs:
        return
    values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
    mean = values.mean(axis=0)
    # A single evaluation is a point, of which no line would show.
    point: dict[str, Any] = dict(marker=style["marker"], markersize=5) if len(epochs) == 1 else {}
    shown: dict[str, Any] = dict(color=style["color"], linestyle=style["linestyle"], linewidth=1.5, label=row.label)
    axes.plot(epochs, mean, **shown, **point)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, linewidth=0)


def _curve(run: Run, split: str, value) -> dict[float, float]:
    """Return the value of each record of a split by its epoch, where it is a number."""
    records = [record for record in run.metrics if record["split"] == split]
    found = {record["epoch"]: value(record) for record in records if record.get("loss") is not None}
    return {epoch: number for epoch, number in found.items() if number is not None}


def _error(record: dict) -> float | None:
    top1 = record.get("top1")
    return None if top1 is None else max(100 * (1 - top1), LEAST_ERROR)


def _tick(row: Row) -> str:
    """A variant's place on an axis of names: without what it shares with the others of its series."""
    name = row.label.removeprefix(row.series).removesuffix(row.series).strip("_-")
    return name or row.label


def _numeric_axis(axes: Axes, xs: list[float]) -> None:
    if len(xs) > 2 and xs[0] > 0 and xs[-1] / xs[0] >= 4:
        axes.set_xscale("log")
        axes.minorticks_off()
    else:
        beside = 0.05 * (xs[-1] - xs[0]) or 1
        axes.set_xlim(xs[0] - beside, xs[-1] + beside)  # of all variants, those without runs too
    axes.set_xticks(xs, [f"{x:g}" for x in xs])


def _dress(axes: Axes, x: str, y: str) -> None:
    dress(axes, x, y)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
