"""The tables of measurements on networks: what a terminal or a page shows of the numbers of `analyze`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Record = dict[str, Any]
Row = tuple[str, ...]


def table(record: Record) -> tuple[Row, list[Row]]:
    """Returns the header and the rows of the record of a measurement; each row begins with the network's name."""
    header, rows_of = TABLES[record["what"]]
    return ("network", *header), [(network["name"], *row) for network in record["networks"] for row in rows_of(network)]


def _deletion(network: Record) -> Iterator[Row]:
    yield "none", _percent(network["whole"]["error"]), f"{network['whole']['loss']:.4g}"
    for row in network["without"]:
        yield row["block"], _percent(row["error"]), f"{row['loss']:.4g}"


def _deletion_count(network: Record) -> Iterator[Row]:
    whole = network["whole"]["error"]
    for row in [{"count": 0, "error": [whole]}, *network["without"]]:
        draws = np.array(row["error"])
        yield (str(row["count"]), *map(_percent, (draws.mean(), draws.min(), draws.max())), str(len(draws)))


def _reordering(network: Record) -> Iterator[Row]:
    yield "0", "1.000", _percent(network["whole"]["error"]), "1"
    for swaps in dict.fromkeys(row["swaps"] for row in network["reordered"]):
        rows = [row for row in network["reordered"] if row["swaps"] == swaps]
        tau, error = (float(np.mean([row[name] for row in rows])) for name in ("correlation", "error"))
        yield str(swaps), f"{tau:.3f}", _percent(error), str(len(rows))


def _gradients(network: Record) -> Iterator[Row]:
    for kind, what in (("kernels", "kernel"), ("inputs", "input")):
        for name, value in network["initial"][kind].items():
            yield f"{what} of {name}", f"{value:.3g}", f"{network['trained'][kind][name]:.3g}"


def _correlation(network: Record) -> Iterator[Row]:
    lags = np.array(network["lags"])
    places = [int(np.argmin(np.abs(lags - lag))) for lag in (lags[1], 0.1, 0.25, 0.5)]
    series = [(f"{state}, {at}", network[state][at]) for state in ("initial", "trained") for at in network[state]]
    series += [(f"{name} noise", values) for name, values in network["noise"].items()]
    for name, values in series:
        for place in dict.fromkeys(places):
            yield name, f"{lags[place]:.3f}", f"{values[place]:.3f}"


def _paths(network: Record) -> Iterator[Row]:
    total = sum(network["paths"])
    rows = zip(network["paths"], network["magnitude"], network["share"], strict=True)
    for length, (paths, magnitude, share) in enumerate(rows):
        yield str(length), _percent(paths / total), f"{magnitude:.3g}", _percent(share)


def _responses(network: Record) -> Iterator[Row]:
    for name, value in network["responses"].items():
        yield name, f"{value:.3f}"


def _surface(network: Record) -> Iterator[Row]:
    loss, error = (np.array(network[name], float) for name in ("loss", "error"))
    loss = np.where(np.isfinite(loss), loss, np.inf)
    yield "the weights", f"{network['whole']['loss']:.4g}", _percent(network["whole"]["error"])
    for what, choose in (("least", np.min), ("median", np.median), ("greatest", np.max)):
        yield f"{what} of the {loss.size} points", f"{choose(loss):.4g}", _percent(choose(error))


def _spectrum(network: Record) -> Iterator[Row]:
    for number, one in enumerate(network["spectra"], start=1):
        values, weights = (np.array(one[name]) for name in ("values", "weights"))
        negative = weights[values < -0.01 * np.abs(values).max()].sum()
        yield str(number), f"{values[-1]:.4g}", f"{values[0]:.4g}", f"{values @ weights:.4g}", _percent(negative)


def _features(network: Record) -> Iterator[Row]:
    for name, stage in network["stages"].items():
        maps = np.array(stage["maps"])
        size = " x ".join(map(str, maps.shape[1:]))
        yield name, size, str(stage["total"]), " ".join(map(str, stage["channels"]))


def _gradcam(network: Record) -> Iterator[Row]:
    for row in network["images"]:
        yield str(row["index"]), row["class"], row["seen"], _percent(row["probability"])


TABLES = {
    "deletion": (("block deleted", "top-1 error", "loss"), _deletion),
    "deletion_count": (("blocks deleted", "mean top-1 error", "least", "greatest", "draws"), _deletion_count),
    "reordering": (("swaps", "mean Kendall tau", "mean top-1 error", "draws"), _reordering),
    "gradients": (("gradient by", "initial", "trained"), _gradients),
    "correlation": (("gradients", "distance", "correlation"), _correlation),
    "paths": (("length", "paths", "gradient of one", "share of the gradient"), _paths),
    "responses": (("layer", "standard deviation"), _responses),
    "surface_1d": (("point", "loss", "top-1 error"), _surface),
    "surface_2d": (("point", "loss", "top-1 error"), _surface),
    "spectrum": (("random vector", "largest eigenvalue", "smallest", "mean", "negative"), _spectrum),
    "features": (("maps", "size", "channels", "shown"), _features),
    "gradcam": (("example", "class", "seen as", "probability"), _gradcam),
}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
