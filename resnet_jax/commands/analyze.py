"""`analyze`: a measurement on runs or weights, as numbers (JSON), as a figure and as a table."""

import argparse
import base64
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_jax.commands.loading import Subject, add_subject_arguments, subject
from resnet_jax.commands.networks import import_code
from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis import correlation, deletion, maps, paths, reordering, responses, spectrum, surface
from resnet_jax.lab.analysis.gradcam import gradcam
from resnet_jax.lab.analysis.gradients import gradient_norms
from resnet_jax.lab.analysis.hooks import blocks, with_statistics_of
from resnet_jax.lab.analysis.scoring import scorer
from resnet_jax.lab.report.analysis import draw_analysis
from resnet_jax.lab.report.analysis_tables import table
from resnet_jax.printable import printable
from resnet_jax.run.files import disk_errors, write_atomically
from resnet_jax.run.workdir import versions
from resnet_jax.weights.presets import run_folder

DIGITS = 6  # of the numbers that are written
NOISE_VALUES = 4096  # of a point of the noises: their curves are then smooth

Numbers = dict[str, Any]


class Measurement(NamedTuple):
    """A measurement that `analyze` makes.

    Attributes:
      purpose: what it is, and of which paper.
      measure: (subject, values) to its numbers.
      examples: taken where the user does not say how many; None: the one that `--index` names.
      add_arguments: declares what it takes besides.
      settings: of these, the names of those that the record keeps.
    """

    purpose: str
    measure: Callable[[Subject, argparse.Namespace], Numbers]
    examples: int | None
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    settings: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the measurements and what each takes."""
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, measurement in MEASUREMENTS.items():
        described = kinds.add_parser(name, help=measurement.purpose, description=measurement.purpose)
        add_subject_arguments(described, measurement.examples)
        measurement.add_arguments(described)
        described.add_argument(
            "--out", metavar="FILE.json", help="default: RUN/analysis/WHAT.json; the figure lies beside"
        )


def run(values: argparse.Namespace) -> None:
    """Measure each network, write the numbers and the figure, and show the table.

    Raises UserError if networks, data or options do not go together, or if nothing can be written.
    Ctrl-C leaves no file.
    """
    measurement, name = MEASUREMENTS[values.what], record_name(values)
    check_options(values)
    import_code(values.config)
    file = target(values.out, values.runs[0], name)
    try:
        with Console(stderr=True).status("") as status:
            networks = []
            for number, run in enumerate(values.runs, start=1):
                status.update(f"{values.what}: {run} ({number} of {len(values.runs)})")
                networks.append(measured(measurement, run, values))
        settings = {"seed": values.seed} | {name: getattr(values, name) for name in measurement.settings}
        record = {"what": name, "settings": settings, "networks": distinct(networks), "versions": versions()}
        write_atomically(file, json.dumps(rounded(record), indent=1, allow_nan=False).encode() + b"\n")
        write_atomically(file.with_suffix(".png"), draw_analysis(rounded(record)))
    except KeyboardInterrupt:
        print("Stopped; the same command repeats the measurement.", file=sys.stderr)
        raise SystemExit(130) from None
    show(record)
    print(f"The numbers are in {file}, the figure in {file.with_suffix('.png')}.")


def measured(measurement: Measurement, run: str, values: argparse.Namespace) -> Numbers:
    """Return what is measured on one network, with what it was measured on."""
    index = values.index if measurement.examples is None else None
    one = subject(run, values, measurement.examples or 1, index)
    about = {"name": one.name, "network": one.network, "data": one.source, "examples": len(one.labels)}
    return about | measurement.measure(one, values)


def check_options(values: argparse.Namespace) -> None:
    """Raise ConfigError for an option below what it can be."""
    least = {"draws": 1, "steps": 2, "points": 2, "channels": 1, "seed": 0}
    for name, lowest in least.items():
        value = getattr(values, name, None)
        if value is not None and value < lowest:
            raise ConfigError(f"--{name} is {value} and must be {lowest} or more.")
    if getattr(values, "swaps", None) and min(values.swaps) < 0:
        raise ConfigError("--swaps are numbers of pairs: use 0 or more.")
    if not 0 < getattr(values, "reach", 1.0) < math.inf:
        raise ConfigError(f"--reach is {values.reach} and must be more than 0, and finite.")


def record_name(values: argparse.Namespace) -> str:
    """Return the name of a record: the measurement's, with its variant."""
    if values.what == "deletion" and values.count is not None:
        return "deletion_count"
    return f"surface_{values.dimensions}d" if values.what == "surface" else values.what


def target(out: str | None, run: str, name: str) -> Path:
    """Return the file of the numbers, in a folder that exists.

    Raises ConfigError if it is not said where that is, UserError if the folder cannot be made.
    """
    folder = run_folder(run)
    if out is None and folder is None:
        raise ConfigError(f"there is no run {run}; if it names weights, say by --out=FILE.json where the numbers go.")
    file = Path(out) if out else folder / "analysis" / f"{name}.json"
    if file.suffix != ".json":
        raise ConfigError(f"--out is {out}: end its name with .json; the figure is put beside it.")
    if out is None and not (folder / "checkpoints").is_dir():
        raise ConfigError(f"{run} holds no run with checkpoints: train there first, or name another folder.")
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file


def distinct(networks: list[Numbers]) -> list[Numbers]:
    """Return the networks with names that differ: where two have the same, they are numbered."""
    names = [network["name"] for network in networks]
    return [
        network | {"name": f"{name} ({i})" if names.count(name) > 1 else name}
        for i, (network, name) in enumerate(zip(networks, names, strict=True), start=1)
    ]


def rounded(value: Any) -> Any:
    """Return `value` as JSON can hold it: arrays as lists, floats to some digits, what is not finite as None."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.integer) else value


def show(record: Numbers) -> None:
    """Print the table of a record."""
    header, rows = table(rounded(record))
    shown = Table(*(escape(printable(name)) for name in header))
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


# The measurements.


def measure_deletion(one: Subject, values: argparse.Namespace) -> Numbers:
    """Delete each block, or with `--count` several."""
    given = one.model, one.variables, one.images, one.labels
    if values.count is None:
        found = deletion.delete_each(*given)
        order = {
            block.name: place for place, block in enumerate(blocks(one.model, one.variables, one.images[:1]), start=1)
        }
        without = [
            {"block": block.name, "place": order[block.name], "keeps_shape": block.keeps_shape} | score._asdict()
            for block, score in zip(found.blocks, found.without, strict=True)
        ]
        return {"whole": found.whole._asdict(), "blocks": len(order), "without": without}
    available = len(deletion.deletable(one.model, one.variables, one.images))
    counts = values.count or spread(available)
    found = deletion.delete_several(*given, counts, values.draws, values.seed)
    without = [
        {"count": count, "error": [score.error for score in scores]}
        for count, scores in zip(counts, found.without, strict=True)
    ]
    return {"whole": found.whole._asdict(), "deletable": available, "without": without}


def spread(most: int, points: int = 10) -> list[int]:
    """Return up to so many whole numbers from 1 to `most`, evenly spread."""
    return sorted({round(number) for number in np.linspace(1, most, min(most, points))})


def deletion_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `deletion` takes."""
    parser.add_argument("--count", type=int, nargs="*", metavar="K", help="delete K random blocks; without K: 1 to all")
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="of blocks, for each K (10)")


def measure_reordering(one: Subject, values: argparse.Namespace) -> Numbers:
    """Swap blocks."""
    given = one.model, one.variables, one.images, one.labels
    swapped = sum(len(names) for names in reordering.exchangeable(*given[:3]))
    whole, found = reordering.reorder_at_random(*given, values.swaps or spread(2 * swapped), values.draws, values.seed)
    rows = [{"swaps": one.swaps, "correlation": one.correlation, "error": one.score.error} for one in found]
    return {"whole": whole._asdict(), "reordered": rows}


def reordering_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `reordering` takes."""
    parser.add_argument("--swaps", type=int, nargs="+", metavar="K", help="pairs that are swapped; default: a range")
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="of pairs, for each K (10)")


def measure_gradients(one: Subject, values: argparse.Namespace) -> Numbers:
    """Take the gradients at initialization and with the weights that are there."""
    states = {"initial": one.initial_variables(), "trained": one.variables}
    return {
        name: gradient_norms(one.model, variables, one.images, one.labels)._asdict()
        for name, variables in states.items()
    }


def measure_correlation(one: Subject, values: argparse.Namespace) -> Numbers:
    """Correlate gradients along lines between pairs of examples, at initialization and now."""
    pairs = len(one.labels) // 2
    if not pairs:
        raise ConfigError("a line leads from one example to another: ask for two --examples or more.")
    # A new network's statistics are of no data, and its deeper maps then grow or fade.
    states = {
        "initial": with_statistics_of(one.model, one.initial_variables(), one.images),
        "trained": one.variables,
    }
    found = {}
    for at in values.at:
        for state, variables in states.items():
            gradients = correlation.gradient_function(one.model, variables, one.images[:1], at)
            curves = []
            for first, second, label in zip(one.images[::2], one.images[1::2], one.labels[::2], strict=False):
                along = gradients(correlation.line(first, second, values.points), int(label))
                curves.append(correlation.by_lag(correlation.correlations(along)))
            found.setdefault(state, {})[at] = np.mean(curves, axis=0)
    noises = {"white": correlation.white_noise, "brown": correlation.brown_noise}
    for name, noise in noises.items():
        drawn = noise(values.points, NOISE_VALUES, values.seed)
        noises[name] = correlation.by_lag(correlation.correlations(drawn))
    lags = np.arange(values.points) / (values.points - 1)
    return {"lines": pairs, "lags": lags, **found, "noise": noises}


def correlation_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `correlation` takes."""
    parser.add_argument("--at", nargs="+", default=[correlation.IMAGE], help="image, or blocks by whose inputs it is")
    parser.add_argument("--points", type=int, default=64, metavar="N", help="of a line (64)")


def measure_paths(one: Subject, values: argparse.Namespace) -> Numbers:
    """Send the gradient back through paths of each length."""
    return paths.path_gradients(one.model, one.variables, one.images, one.labels, values.draws, values.seed)._asdict()


def paths_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `paths` takes."""
    parser.add_argument("--draws", type=int, default=50, metavar="N", help="of paths, for each length (50)")


def measure_responses(one: Subject, values: argparse.Namespace) -> Numbers:
    """Take the deviations of the responses."""
    return {"responses": responses.layer_responses(one.model, one.variables, one.images)}


def measure_surface(one: Subject, values: argparse.Namespace) -> Numbers:
    """Walk from the weights into one or two random directions."""
    keys = jax.random.split(jax.random.key(values.seed), values.dimensions)
    params = one.variables["params"]
    directions = [surface.filter_direction(params, key) for key in keys]

    def logits_of(params, directions, shares, images):
        there = one.variables | {"params": surface.moved(params, directions, shares)}
        return one.model.apply(there, images, train=False)

    score = scorer(logits_of, one.images, one.labels)
    points = values.points or {1: 51, 2: 25}[values.dimensions]
    steps = np.linspace(-values.reach, values.reach, points)
    loss, error = surface.loss_surface(lambda *shares: score(params, directions, shares), steps, values.dimensions)
    whole = score(params, directions, (np.float32(0),) * values.dimensions)
    return {"whole": whole._asdict(), "steps": steps, "loss": loss, "error": error}


def surface_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `surface` takes."""
    parser.add_argument("--dimensions", type=int, choices=(1, 2), default=2, help="directions (2)")
    parser.add_argument("--points", type=int, metavar="N", help="of each direction (51 for one, 25 for two)")
    parser.add_argument("--reach", type=float, default=1.0, metavar="X", help="how far, in norms of the filters (1)")


def measure_spectrum(one: Subject, values: argparse.Namespace) -> Numbers:
    """Find the eigenvalues of the Hessian around the weights."""
    given = one.model, one.variables, one.images, one.labels
    found = spectrum.hessian_spectrum(*given, values.steps, values.draws, values.seed)
    return {"spectra": [each._asdict() for each in found]}


def spectrum_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `spectrum` takes."""
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="Lanczos steps of each random vector (40)")
    parser.add_argument("--draws", type=int, default=2, metavar="N", help="random vectors (2)")


def measure_features(one: Subject, values: argparse.Namespace) -> Numbers:
    """Take the liveliest maps of each stage."""
    found = maps.liveliest_maps(one.model, one.variables, one.images[0], values.channels)
    return {
        "index": int(one.indices[0]),
        "class": one.classes[one.labels[0]],
        "image": png(one.pixels[0]),
        "stages": {name: stage._asdict() for name, stage in found.items()},
    }


def features_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `features` takes."""
    parser.add_argument("--index", type=int, default=0, metavar="I", help="of the evaluation example (0)")
    parser.add_argument("--channels", type=int, default=8, metavar="N", help="of each stage (8)")


def measure_gradcam(one: Subject, values: argparse.Namespace) -> Numbers:
    """Find where the network sees the class that it takes for the likeliest."""

    @jax.jit
    def program(variables, images):
        logits = one.model.apply(variables, images, train=False)
        likeliest = jnp.argmax(logits, axis=1)
        return jax.nn.softmax(logits), gradcam(one.model, variables, images, likeliest)

    probabilities, heat = jax.device_get(program(one.variables, one.images))
    rows = [
        {
            "index": int(one.indices[i]),
            "class": one.classes[one.labels[i]],
            "seen": _class(one, int(np.argmax(probabilities[i]))),
            "probability": float(np.max(probabilities[i])),
            "image": png(one.pixels[i]),
            "heat": heat[i],
        }
        for i in range(len(one.labels))
    ]
    return {"images": rows}


def _class(one: Subject, label: int) -> str:
    return one.classes[label] if label < len(one.classes) else str(label)


def png(image: np.ndarray) -> str:
    """Return an image of 1 or 3 channels as a PNG in base64."""
    data = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


MEASUREMENTS = {
    "deletion": Measurement(
        "the error without each block, or without several (Veit et al. 2016, 4.1 and 4.2)",
        measure_deletion,
        1000,
        deletion_arguments,
        ("draws",),
    ),
    "reordering": Measurement(
        "the error with blocks in another order (Veit et al. 2016, 4.3)",
        measure_reordering,
        1000,
        reordering_arguments,
        ("draws",),
    ),
    "gradients": Measurement("gradient norms by layer and by block, at initialization and now", measure_gradients, 128),
    "correlation": Measurement(
        "the correlation of gradients at nearby inputs (Balduzzi et al. 2017)",
        measure_correlation,
        16,
        correlation_arguments,
        ("at", "points"),
    ),
    "paths": Measurement(
        "the share of the gradient by path length (Veit et al. 2016, 5)", measure_paths, 32, paths_arguments, ("draws",)
    ),
    "responses": Measurement(
        "standard deviations of layer responses (He et al. 2015, figure 7)", measure_responses, 256
    ),
    "surface": Measurement(
        "the filter-normalized loss surface (Li et al. 2018)",
        measure_surface,
        256,
        surface_arguments,
        ("dimensions", "reach"),
    ),
    "spectrum": Measurement(
        "the eigenvalues of the loss's Hessian by Lanczos (Ghorbani et al. 2019)",
        measure_spectrum,
        256,
        spectrum_arguments,
        ("steps", "draws"),
    ),
    "features": Measurement(
        "feature maps of each stage for one image", measure_features, None, features_arguments, ("channels",)
    ),
    "gradcam": Measurement("where the network sees its classes (Grad-CAM, Selvaraju et al. 2017)", measure_gradcam, 6),
}
