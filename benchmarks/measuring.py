"""How the benchmarks measure: contestants in turn, medians, and a record that names the machine."""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "onednn-cpu-gomp", "torch", "torchvision")


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, every contestant once a round, after one call that is not counted.

    What else the machine does then hits all of them alike. A contestant returns arrays, which are waited for.
    """
    import jax

    for call in contestants.values():
        jax.block_until_ready(call())
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            begun = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each contestant, in seconds."""
    return {name: statistics.median(each) for name, each in seconds.items()}


def machine() -> dict:
    """Return what the figures belong to: processor, accelerators, versions, the date, and other work on it."""
    import jax

    from resnet_jax.run.hardware import processor

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "load_average": round(os.getloadavg()[0], 2),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(file: pathlib.Path | None, record: dict) -> None:
    """Write a record with the machine's description, if a file is named."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": machine(), **record}, indent=2) + "\n")
        print(f"written to {file}")
