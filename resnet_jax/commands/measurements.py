"""The measurements that `analyze` makes: for each a small function, and a row of the table at the end."""

import argparse
import base64
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet_jax.commands.loading import LoadedNetwork
from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis import correlation, deletion, maps, paths, reordering, responses, spectrum, surface
from resnet_jax.lab.analysis.gradcam import gradcam
from resnet_jax.lab.analysis.gradients import gradient_norms
from resnet_jax.lab.analysis.hooks import blocks, with_statistics_of
from resnet_jax.lab.analysis.scoring import scorer

NOISE_VALUES = 4096  # of a point of the noises: their curves are then smooth

Numbers = dict[str, Any]


class Measurement(NamedTuple):
    """A measurement that `analyze` makes.

    Attributes:
      purpose: what it is, and of which paper.
      measure: (network, arguments) to its numbers.
      examples: taken where the user does not say how many; None: the one that `--index` names.
      flags: what it takes besides, as `add_argument` does.
      settings: of these, the names of those that the record keeps.
    """

    purpose: str
    measure: Callable[[LoadedNetwork, argparse.Namespace], Numbers]
    examples: int | None
    flags: Mapping[str, Any] = MappingProxyType({})
    settings: tuple[str, ...] = ()


def measure_deletion(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Delete each block, or with `--count` several."""
    given = net.model, net.variables, net.images, net.labels
    if args.count is None:
        found = deletion.delete_each(*given)
        order = [block.name for block in blocks(net.model, net.variables, net.images[:1])]
        without = [
            {"block": block.name, "place": order.index(block.name) + 1, "keeps_shape": block.keeps_shape}
            | score._asdict()
            for block, score in zip(found.blocks, found.without, strict=True)
        ]
        return {"whole": found.whole._asdict(), "blocks": len(order), "without": without}
    available = len(deletion.deletable(net.model, net.variables, net.images))
    counts = args.count or spread(available)
    found = deletion.delete_several(*given, counts, args.draws, args.seed)
    without = [
        {"count": count, "error": [score.error for score in scores]}
        for count, scores in zip(counts, found.without, strict=True)
    ]
    return {"whole": found.whole._asdict(), "deletable": available, "without": without}


def spread(most: int, points: int = 10) -> list[int]:
    """Return up to so many whole numbers from 1 to `most`, evenly spread."""
    return sorted({round(number) for number in np.linspace(1, most, min(most, points))})


def measure_reordering(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Swap blocks."""
    given = net.model, net.variables, net.images, net.labels
    swapped = sum(len(names) for names in reordering.exchangeable(*given[:3]))
    whole, found = reordering.reorder_at_random(*given, args.swaps or spread(2 * swapped), args.draws, args.seed)
    rows = [{"swaps": row.swaps, "correlation": row.correlation, "error": row.score.error} for row in found]
    return {"whole": whole._asdict(), "reordered": rows}


def measure_gradients(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Take the gradients at initialization and with the weights that are there."""
    states = {"initial": net.initial_variables(), "trained": net.variables}
    return {
        name: gradient_norms(net.model, variables, net.images, net.labels)._asdict()
        for name, variables in states.items()
    }


def measure_correlation(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Correlate gradients along lines between pairs of examples, at initialization and now."""
    pairs = len(net.labels) // 2
    if not pairs:
        raise ConfigError("a line leads from one example to another: ask for two --examples or more.")
    # A new network's statistics are of no data, and its deeper maps then grow or fade.
    states = {
        "initial": with_statistics_of(net.model, net.initial_variables(), net.images),
        "trained": net.variables,
    }
    found = {}
    for at in args.at:
        for state, variables in states.items():
            gradients = correlation.gradient_function(net.model, variables, net.images[:1], at)
            curves = []
            for first, second, label in zip(net.images[::2], net.images[1::2], net.labels[::2], strict=False):
                along = gradients(correlation.line(first, second, args.points), int(label))
                curves.append(correlation.by_lag(correlation.correlations(along)))
            found.setdefault(state, {})[at] = np.mean(curves, axis=0)
    noises = {}
    for name, noise in (("white", correlation.white_noise), ("brown", correlation.brown_noise)):
        drawn = noise(args.points, NOISE_VALUES, args.seed)
        noises[name] = correlation.by_lag(correlation.correlations(drawn))
    lags = np.arange(args.points) / (args.points - 1)
    return {"lines": pairs, "lags": lags, **found, "noise": noises}


def measure_paths(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Send the gradient back through paths of each length."""
    return paths.path_gradients(net.model, net.variables, net.images, net.labels, args.draws, args.seed)._asdict()


def measure_responses(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Take the deviations of the responses."""
    return {"responses": responses.layer_responses(net.model, net.variables, net.images)}


def measure_surface(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Walk from the weights into one or two random directions."""
    keys = jax.random.split(jax.random.key(args.seed), args.dimensions)
    params = net.variables["params"]
    directions = [surface.filter_direction(params, key) for key in keys]

    def logits_of(params, directions, shares, images) -> Any:
        there = net.variables | {"params": surface.moved(params, directions, shares)}
        return net.model.apply(there, images, train=False)

    score = scorer(logits_of, net.images, net.labels)
    points = args.points or {1: 51, 2: 25}[args.dimensions]
    steps = np.linspace(-args.reach, args.reach, points)
    loss, error = surface.loss_surface(lambda *shares: score(params, directions, shares), steps, args.dimensions)
    whole = score(params, directions, (np.float32(0),) * args.dimensions)
    return {"whole": whole._asdict(), "steps": steps, "loss": loss, "error": error}


def measure_spectrum(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Find the eigenvalues of the Hessian around the weights."""
    given = net.model, net.variables, net.images, net.labels
    found = spectrum.hessian_spectrum(*given, args.steps, args.draws, args.seed)
    return {"spectra": [each._asdict() for each in found]}


def measure_features(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Take the liveliest maps of each stage."""
    found = maps.liveliest_maps(net.model, net.variables, net.images[0], args.channels)
    return {
        "index": int(net.indices[0]),
        "class": net.classes[net.labels[0]],
        "image": png(net.pixels[0]),
        "stages": {name: stage._asdict() for name, stage in found.items()},
    }


def measure_gradcam(net: LoadedNetwork, args: argparse.Namespace) -> Numbers:
    """Find where the network sees the class that it takes for the likeliest."""

    @jax.jit
    def program(variables, images):
        scores: Any = net.model.apply(variables, images, train=False)
        likeliest = jnp.argmax(scores, axis=1)
        return jax.nn.softmax(scores), gradcam(net.model, variables, images, likeliest)

    probabilities, heat = jax.device_get(program(net.variables, net.images))
    rows = [
        {
            "index": int(net.indices[i]),
            "class": net.classes[net.labels[i]],
            "seen": _class(net, int(np.argmax(probabilities[i]))),
            "probability": float(np.max(probabilities[i])),
            "image": png(net.pixels[i]),
            "heat": heat[i],
        }
        for i in range(len(net.labels))
    ]
    return {"images": rows}


def _class(net: LoadedNetwork, label: int) -> str:
    return net.classes[label] if label < len(net.classes) else str(label)


def png(image: np.ndarray) -> str:
    """Return an image of 1 or 3 channels as a PNG in base64."""
    data = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def number(default: int | None, described: str, metavar: str = "N") -> dict[str, Any]:
    """Return the options of a flag that takes a whole number."""
    return dict(type=int, default=default, metavar=metavar, help=described)


MEASUREMENTS = {
    "deletion": Measurement(
        "the error without each block, or without several (Veit et al. 2016, 4.1 and 4.2)",
        measure_deletion,
        1000,
        {
            "--count": dict(type=int, nargs="*", metavar="K", help="delete K random blocks; without K: 1 to all"),
            "--draws": number(10, "random choices of blocks for each K (10)"),
        },
        ("draws",),
    ),
    "reordering": Measurement(
        "the error with blocks in another order (Veit et al. 2016, 4.3)",
        measure_reordering,
        1000,
        {
            "--swaps": dict(type=int, nargs="+", metavar="K", help="number of swapped pairs; default: a range"),
            "--draws": number(10, "random choices of pairs for each K (10)"),
        },
        ("draws",),
    ),
    "gradients": Measurement("gradient norms by layer and by block, at initialization and now", measure_gradients, 128),
    "correlation": Measurement(
        "the correlation of gradients at nearby inputs (Balduzzi et al. 2017)",
        measure_correlation,
        16,
        {
            "--at": dict(nargs="+", default=[correlation.IMAGE], help='"image", or blocks whose inputs to use (image)'),
            "--points": number(64, "points on a line (64)"),
        },
        ("at", "points"),
    ),
    "paths": Measurement(
        "the share of the gradient by path length (Veit et al. 2016, 5)",
        measure_paths,
        32,
        {"--draws": number(50, "random paths of each length (50)")},
        ("draws",),
    ),
    "responses": Measurement(
        "standard deviations of layer responses (He et al. 2015, figure 7)", measure_responses, 256
    ),
    "surface": Measurement(
        "the filter-normalized loss surface (Li et al. 2018)",
        measure_surface,
        256,
        {
            "--dimensions": dict(type=int, choices=(1, 2), default=2, help="number of directions (2)"),
            "--points": number(None, "points along each direction (51 for one, 25 for two)"),
            "--reach": dict(type=float, default=1.0, metavar="X", help="distance, in norms of the filters (1)"),
        },
        ("dimensions", "reach"),
    ),
    "spectrum": Measurement(
        "the eigenvalues of the loss's Hessian by Lanczos (Ghorbani et al. 2019)",
        measure_spectrum,
        256,
        {
            "--steps": number(40, "Lanczos steps for each random vector (40)"),
            "--draws": number(2, "random vectors (2)"),
        },
        ("steps", "draws"),
    ),
    "features": Measurement(
        "feature maps of each stage for one image",
        measure_features,
        None,
        {
            "--index": number(0, "index of the evaluation example (0)", "I"),
            "--channels": number(8, "channels of each stage (8)"),
        },
        ("channels",),
    ),
    "gradcam": Measurement("where the network sees its classes (Grad-CAM, Selvaraju et al. 2017)", measure_gradcam, 6),
}
