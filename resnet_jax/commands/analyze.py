"""`analyze`: a measurement on runs or weights, as numbers (JSON), as a figure and as a table."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resnet_jax.commands.loading import add_network_arguments, load_network
from resnet_jax.commands.measurements import MEASUREMENTS, Measurement, Numbers
from resnet_jax.commands.networks import import_code
from resnet_jax.errors import ConfigError
from resnet_jax.lab.report.analysis import draw_analysis
from resnet_jax.lab.report.analysis_tables import table
from resnet_jax.run import tables
from resnet_jax.run.files import disk_errors, write_atomically
from resnet_jax.run.workdir import versions
from resnet_jax.weights.presets import run_folder

DIGITS = 6  # of the numbers that are written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the measurements and what each takes."""
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, measurement in MEASUREMENTS.items():
        described = kinds.add_parser(name, help=measurement.purpose, description=measurement.purpose)
        add_network_arguments(described, measurement.examples)
        for flag, options in measurement.flags.items():
            described.add_argument(flag, **options)
        described.add_argument(
            "--out", metavar="FILE.json", help="default: RUN/analysis/WHAT.json; the figure is written beside it"
        )


def run(args: argparse.Namespace) -> None:
    """Measure each network, write the numbers and the figure, and show the table.

    Raises UserError if networks, data or options do not go together, or if nothing can be written.
    Ctrl-C leaves no file.
    """
    measurement, name = MEASUREMENTS[args.what], record_name(args)
    check_options(args)
    import_code(args.config)
    file = target(args.out, args.runs[0], name)
    try:
        with Console(stderr=True).status("") as status:
            networks = []
            for number, run in enumerate(args.runs, start=1):
                status.update(f"{args.what}: {run} ({number} of {len(args.runs)})")
                networks.append(measured(measurement, run, args))
        settings = {"seed": args.seed} | {name: getattr(args, name) for name in measurement.settings}
        record = {"what": name, "settings": settings, "networks": distinct(networks), "versions": versions()}
        write_atomically(file, json.dumps(rounded(record), indent=1, allow_nan=False).encode() + b"\n")
        write_atomically(file.with_suffix(".png"), draw_analysis(rounded(record)))
    except KeyboardInterrupt:
        print("Stopped; the same command repeats the measurement.", file=sys.stderr)
        raise SystemExit(130) from None
    show(record)
    print(f"The numbers are in {file}, the figure in {file.with_suffix('.png')}.")


def measured(measurement: Measurement, run: str, args: argparse.Namespace) -> Numbers:
    """Return what is measured on one network, with what it was measured on."""
    index = args.index if measurement.examples is None else None
    one = load_network(run, args, measurement.examples or 1, index)
    about = {"name": one.name, "network": one.network, "data": one.source, "examples": len(one.labels)}
    return about | measurement.measure(one, args)


def check_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for an option below what it can be."""
    least = {"draws": 1, "steps": 2, "points": 2, "channels": 1, "seed": 0}
    for name, lowest in least.items():
        value = getattr(args, name, None)
        if value is not None and value < lowest:
            raise ConfigError(f"--{name} is {value} and must be {lowest} or more.")
    if getattr(args, "swaps", None) and min(args.swaps) < 0:
        raise ConfigError("--swaps are numbers of pairs: use 0 or more.")
    if not 0 < getattr(args, "reach", 1.0) < math.inf:
        raise ConfigError(f"--reach is {args.reach} and must be more than 0, and finite.")


def record_name(args: argparse.Namespace) -> str:
    """Return the name of a record: the measurement's, with its variant."""
    if args.what == "deletion" and args.count is not None:
        return "deletion_count"
    return f"surface_{args.dimensions}d" if args.what == "surface" else args.what


def target(out: str | None, run: str, name: str) -> Path:
    """Return the file of the numbers, in a folder that exists.

    Raises ConfigError if it is not said where that is, UserError if the folder cannot be made.
    """
    folder = run_folder(run)
    if out is not None:
        file = Path(out)
    elif folder is not None:
        file = folder / "analysis" / f"{name}.json"
    else:
        raise ConfigError(f"there is no run {run}; if it names weights, say by --out=FILE.json where the numbers go.")
    if file.suffix != ".json":
        raise ConfigError(f"--out is {out}: end its name with .json; the figure is put beside it.")
    if out is None and folder is not None and not (folder / "checkpoints").is_dir():
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
    (first, *others), rows = table(rounded(record))
    tables.show((first, *(f"#{name}" for name in others)), rows)
