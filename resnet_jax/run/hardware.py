"""What a run has run on, in words."""

import os
import pathlib
import platform

import jax


def processor() -> str:
    """Return the model of the processor and how many cores of it there are."""
    file = pathlib.Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(devices: int) -> str:
    """Return how many devices of which kind a run of `devices` devices has; of a CPU, what it is."""
    kind = jax.devices()[0].device_kind
    return f"{devices} x {processor() if kind == 'cpu' else kind}"
