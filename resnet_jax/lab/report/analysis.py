"""The figures of measurements on networks, each as its paper draws it, from the numbers of `analyze` alone."""

import base64
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from resnet_jax.errors import UserError
from resnet_jax.lab.analysis.spectrum import density
from resnet_jax.run.drawing import STYLES, dress, png

NOISE = {"white": dict(color="#808080", linestyle=":"), "brown": dict(color="#808080", linestyle=(0, (6, 3)))}
LEVELS = 13  # between which the contours of a surface are drawn

Record = dict[str, Any]


def draw_analysis(record: Record) -> bytes:
    """Return the PNG of a measurement's record, as `analyze` writes it.

    Raises UserError: the record is damaged, or none of a measurement.
    """
    try:
        return png(FIGURES[record["what"]](record))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"a record of a measurement is damaged ({type(error).__name__}: {error})") from error


def deletion(record: Record) -> Figure:
    """Draws the error without each block (Veit et al. 2016, figure 3)."""
    figure, (axes,) = _panels(1, width=7)
    for style, network in _styled(record):
        rows = network["without"]
        places, errors = [row["place"] for row in rows], [100 * row["error"] for row in rows]
        axes.plot(places, errors, label=network["name"], **_line(style, fill="white"))
        kept = [(place, error) for place, error, row in zip(places, errors, rows, strict=True) if row["keeps_shape"]]
        dots: dict[str, Any] = style | dict(linestyle="none", markersize=5, zorder=3)
        axes.plot(*np.array(kept).reshape(-1, 2).T, **dots)
        whole = 100 * network["whole"]["error"]
        axes.axhline(whole, color=style["color"], linestyle=style["linestyle"], linewidth=0.8, alpha=0.6)
    _numbered(axes, 1)
    axes.set_title("thin lines: whole network; hollow markers: blocks that change the shape", fontsize=8, loc="left")
    _dress(axes, "block that is deleted", "top-1 error (%)")
    axes.set_ylim(bottom=0)
    return figure


def deletion_count(record: Record) -> Figure:
    """Draws the error without several random blocks (Veit et al. 2016, figure 5a)."""
    figure, (axes,) = _panels(1, width=7)
    for style, network in _styled(record):
        rows = [{"count": 0, "error": [network["whole"]["error"]]}, *network["without"]]
        errors = [100 * np.array(row["error"]) for row in rows]
        means = np.array([draws.mean() for draws in errors])
        reach = [means - [draws.min() for draws in errors], [draws.max() for draws in errors] - means]
        axes.errorbar(
            [row["count"] for row in rows], means, yerr=reach, label=network["name"], capsize=3, **_line(style)
        )
    _numbered(axes, 0)
    axes.set_title("mean of the draws; bars: least and greatest", fontsize=8, loc="left")
    _dress(axes, "number of deleted blocks", "top-1 error (%)")
    axes.set_ylim(bottom=0)
    return figure


def reordering(record: Record) -> Figure:
    """Draws the error over Kendall's tau (Veit et al. 2016, figure 5b)."""
    figure, (axes,) = _panels(1, width=7)
    for style, network in _styled(record):
        points = np.array([(row["correlation"], 100 * row["error"]) for row in network["reordered"]])
        marks = dict(color=style["color"], marker=style["marker"], linestyle="none", markersize=5, fillstyle="none")
        axes.plot(*points.T, label=network["name"], **marks)
        whole = 100 * network["whole"]["error"]
        axes.axhline(whole, color=style["color"], linestyle=style["linestyle"], linewidth=0.8, alpha=0.6)
    axes.set_title("thin lines: blocks in their own order, tau = 1", fontsize=8, loc="left")
    _dress(axes, "Kendall's tau of the order of the blocks", "top-1 error (%)")
    axes.set_ylim(bottom=0)
    return figure


def gradients(record: Record) -> Figure:
    """Draws gradient norms by convolution and by block, at initialization and trained."""
    figure, panels = _panels(2)
    for style, network in _styled(record):
        for state, full in (("initial", False), ("trained", True)):
            shown = _line(style, fill=None if full else "white", width=1.5 if full else 0.8)
            for axes, kind in zip(panels, ("kernels", "inputs"), strict=True):
                values = list(network[state][kind].values())
                label = f"{network['name']}, {state}"
                axes.plot(range(1, len(values) + 1), values, label=label, **shown)
    panels[0].set_title("initial: hollow, thin; trained: full", fontsize=8, loc="left")
    for axes in panels:
        _log(axes)
        _numbered(axes, 1)
    _dress(panels[0], "convolution, in order", "root mean square of the kernel's gradient")
    _dress(panels[1], "block, in order", "norm of the gradient by the block's input", legend=False)
    return figure


def correlation(record: Record) -> Figure:
    """Draws the correlation of gradients over the distance of the inputs (Balduzzi et al. 2017, figures 1 and 2)."""
    states = ("initial", "trained")
    figure, panels = _panels(2)
    for axes, state in zip(panels, states, strict=True):
        for name, values in record["networks"][0]["noise"].items():
            axes.plot(record["networks"][0]["lags"], values, label=f"{name} noise", linewidth=1.5, **NOISE[name])
        lines = [(network, at) for network in record["networks"] for at in network[state]]
        for style, (network, at) in zip(itertools.cycle(STYLES), lines, strict=False):
            where = "" if len(network[state]) == 1 else f" at {at}"
            every = max(1, len(network["lags"]) // 8)
            axes.plot(
                network["lags"], network[state][at], label=network["name"] + where, markevery=every, **_line(style)
            )
        axes.set_title(f"{state} weights", fontsize=9, loc="left")
        axes.set_ylim(top=1.03)
        _dress(axes, "distance of the inputs (of two images' distance)", "correlation of gradients", state == "trained")
    return figure


def paths(record: Record) -> Figure:
    """Draws path lengths, the gradient through a path, and its share (Veit et al. 2016, figure 6)."""
    figure, (count, magnitude, share) = _panels(3)
    for style, network in _styled(record):
        lengths = np.arange(len(network["paths"]))
        total = np.sum(network["paths"])
        for axes, values in (
            (count, 100 * np.array(network["paths"]) / total),
            (magnitude, network["magnitude"]),
            (share, 100 * np.array(network["share"])),
        ):
            axes.plot(lengths, values, label=network["name"], **_line(style))
    _log(magnitude)
    for axes, label in (
        (count, "paths of this length (% of all)"),
        (magnitude, "norm of the gradient through one path"),
        (share, "gradient through them (% of all)"),
    ):
        _numbered(axes, 0)
        _dress(axes, "path length (branches taken)", label, legend=axes is count)
    return figure


def responses(record: Record) -> Figure:
    """Draws the deviations of responses by layer and by magnitude (He et al. 2015, figure 7)."""
    figure, panels = _panels(2)
    for style, network in _styled(record):
        values = list(network["responses"].values())
        for axes, order in zip(panels, (values, sorted(values, reverse=True)), strict=True):
            axes.plot(range(1, len(values) + 1), order, label=network["name"], **_line(style))
    for axes, label in zip(panels, ("layer, in order", "layer, by magnitude"), strict=True):
        _numbered(axes, 1)
        axes.set_ylim(bottom=0)
        _dress(axes, label, "standard deviation of the response", legend=axes is panels[0])
    return figure


def surface_1d(record: Record) -> Figure:
    """Draws loss and error along a random direction (Li et al. 2018, figure 2)."""
    figure, panels = _panels(2)
    for style, network in _styled(record):
        steps = network["steps"]
        for axes, values in zip(panels, (_numbers(network["loss"]), 100 * _numbers(network["error"])), strict=True):
            axes.plot(steps, values, label=network["name"], markevery=5, **_line(style))
    low, high = _range(record["networks"])
    if high > 20 * low > 0:
        _log(panels[0])
    for axes in panels:
        axes.locator_params(axis="x", nbins=5)
    _dress(panels[0], "step along the direction (norms of the filters)", "loss")
    _dress(panels[1], "step along the direction (norms of the filters)", "top-1 error (%)", legend=False)
    return figure


def surface_2d(record: Record) -> Figure:
    """Draws contours of the loss over two random directions (Li et al. 2018, figure 5)."""
    networks = record["networks"]
    figure, panels = _panels(len(networks), width=4.6, height=4.4)
    low, high = _range(networks)
    wide = high > 20 * low > 0
    levels = np.geomspace(low, high, LEVELS) if wide else np.linspace(low, max(high, low + 1e-12), LEVELS)
    greys = [str(brightness) for brightness in np.linspace(1.0, 0.55, LEVELS - 1)]  # black letters stay legible
    for axes, network in zip(panels, networks, strict=True):
        steps, loss = network["steps"], np.clip(_numbers(network["loss"]).T, levels[0], levels[-1])
        axes.contourf(steps, steps, loss, levels, colors=greys)
        lines = axes.contour(steps, steps, loss, levels[1:-1], colors="black", linewidths=0.7)
        axes.clabel(lines, fmt=lambda level: f"{level:.2g}", fontsize=7)
        axes.plot(0, 0, marker="+", color="black", markersize=9, markeredgewidth=1.5)
        axes.set_aspect("equal")
        axes.set_title(f"{network['name']}: loss {network['whole']['loss']:.3g} at the cross", fontsize=9, loc="left")
        axes.set_xlabel("first direction (norms of the filters)")
        axes.set_ylabel("second direction (norms of the filters)")
        axes.locator_params(nbins=5)
    return figure


def features(record: Record) -> Figure:
    """Draws the image and the feature maps of each stage, a row each."""
    networks = record["networks"]
    rows = [(network, name, stage) for network in networks for name, stage in network["stages"].items()]
    columns = 1 + max(len(stage["channels"]) for _, _, stage in rows)
    figure = Figure(figsize=(1.15 * columns + 0.5, 1.32 * len(rows)), dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (network, name, stage) in zip(grid, rows, strict=True):
        first = name == next(iter(network["stages"]))
        if first:
            line[0].imshow(_image(network["image"]), cmap="gray", vmin=0, vmax=255)
            line[0].set_title(f"{network['name']}\nexample {network['index']}, {network['class']}", fontsize=7)
        height, width = np.shape(stage["maps"])[1:]
        text = f"{name}\n{height} x {width}\n{stage['total']} channels"
        line[0].text(0.5, -0.05 if first else 0.5, text if not first else "", ha="center", va="center", fontsize=8)
        for axes, channel, values in zip(line[1:], stage["channels"], stage["maps"], strict=False):
            axes.imshow(values, cmap="gray")
            low, high = np.min(values), np.max(values)
            axes.set_title(f"{name} #{channel}\n{low:.2g} to {high:.2g}", fontsize=6.5)
    return figure


def gradcam(record: Record) -> Figure:
    """Draws images with the places that speak for the class that the network sees."""
    networks = record["networks"]
    columns = max(len(network["images"]) for network in networks)
    size = (max(4.0, 1.6 * columns + 0.3), 3.7 * len(networks))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(2 * len(networks), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, network in enumerate(networks):
        for column, row in enumerate(network["images"]):
            image, heat = _image(row["image"]), np.array(row["heat"], np.float32)
            above, below = grid[2 * i][column], grid[2 * i + 1][column]
            above.imshow(image, cmap="gray", vmin=0, vmax=255)
            above.set_title(f"{network['name']}\nexample {row['index']}, {row['class']}", fontsize=7)
            grey = np.asarray(Image.fromarray(image).convert("L"))
            below.imshow(grey, cmap="gray", vmin=-160, vmax=255)
            share = heat / heat.max() if heat.max() > 0 else heat
            share = np.asarray(Image.fromarray(share).resize((128, 128), Image.Resampling.BICUBIC))
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            below.imshow(share, cmap="viridis", vmin=0, vmax=1, alpha=0.45, extent=extent)
            if heat.max() > 0:
                levels, widths = (0.25, 0.5, 0.75), (0.8, 1.4, 2.0)
                below.contour(share, levels, colors="black", linewidths=widths, extent=extent, origin="upper")
            below.set_title(f"seen as {row['seen']}, {100 * row['probability']:.1f} %", fontsize=7)
    figure.supxlabel("lines: 25, 50 and 75 % of the greatest value", fontsize=7)
    return figure


def spectrum(record: Record) -> Figure:
    """Draws the density of the Hessian's eigenvalues (Ghorbani et al. 2019, figure 1)."""
    figure, (axes,) = _panels(1, width=7)
    ends = [value for network in record["networks"] for one in network["spectra"] for value in one["values"]]
    reach = max(ends) - min(ends) or 1.0
    at = np.linspace(min(ends) - 0.05 * reach, max(ends) + 0.05 * reach, 500)
    for style, network in _styled(record):
        found = density(network["spectra"], at, reach / 100)
        axes.plot(at, np.maximum(found, 1e-6 / reach), label=network["name"], markevery=50, **_line(style))
    _log(axes)
    axes.set_title(f"Gaussians of deviation {reach / 100:.2g} around the Ritz values", fontsize=8, loc="left")
    _dress(axes, "eigenvalue of the Hessian", "density")
    return figure


FIGURES: dict[str, Callable[[Record], Figure]] = {
    "deletion": deletion,
    "deletion_count": deletion_count,
    "reordering": reordering,
    "gradients": gradients,
    "correlation": correlation,
    "paths": paths,
    "responses": responses,
    "surface_1d": surface_1d,
    "surface_2d": surface_2d,
    "spectrum": spectrum,
    "features": features,
    "gradcam": gradcam,
}


def _panels(count: int, width: float = 4.8, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height), dpi=100, layout=ConstrainedLayoutEngine(wspace=0.05))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _styled(record: Record) -> Iterator[tuple[dict[str, Any], Record]]:
    return zip(itertools.cycle(STYLES), record["networks"], strict=False)


def _line(style: dict[str, Any], fill: str | None = None, width: float = 1.5) -> dict[str, Any]:
    face = {} if fill is None else dict(markerfacecolor=fill)
    return style | dict(linewidth=width, markersize=4) | face


def _dress(axes: Axes, xlabel: str, ylabel: str, legend: bool = True) -> None:
    dress(axes, xlabel, ylabel)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def _numbered(axes: Axes, first: int) -> None:
    """Gives an axis of blocks or layers whole numbers, from the first one on."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2))
    axes.set_xlim(left=first - 0.5)


def _log(axes: Axes) -> None:
    """Sets a logarithmic y axis whose ticks are read without powers where it spans little."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 1e3 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _numbers(values: Any) -> np.ndarray:
    """Numbers of a record, where None is one that was not finite."""
    return np.array(values, dtype=float)


def _range(networks: list[Record]) -> tuple[float, float]:
    """The least and the greatest finite loss of surfaces."""
    losses = np.concatenate([_numbers(network["loss"]).ravel() for network in networks])
    finite = losses[np.isfinite(losses)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _image(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
