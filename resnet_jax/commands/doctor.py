"""`doctor`: what this installation has and whether it works, to read first and to put into a bug report."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import math
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch

from resnet_jax import __version__, create_model, default_config, evaluate, train
from resnet_jax.errors import EXTRAS, UserError
from resnet_jax.ops import onednn
from resnet_jax.printable import printable
from resnet_jax.run.hardware import processor, usable_cores

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml_collections", "clu", "numpy")
PLUGINS = r"jax[-_](cuda\d+|rocm\d+)[-_](plugin|pjrt)|libtpu"  # distributions that bring an accelerator to JAX
PACKAGES = {"cv2": "opencv-python-headless", "tensorflow_datasets": "tensorflow-datasets"}
VARIABLES = r"(JAX|XLA|OMP|CUDA|ROCR|TPU|RESNET_JAX|HF)_\w+|CXX|XDG_CACHE_HOME"
SECRET = r"TOKEN|KEY|SECRET|PASSWORD"
TOLERANCE = 1e-4  # between two implementations of a network, in float32


class SelfCheckFailed(UserError):
    """The installation does not compute what it should."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--no-check", action="store_true", help="describe the installation without the self-check")


def run(args: argparse.Namespace) -> None:
    """Describe the installation, then check that it trains, saves and evaluates."""
    for title, rows in described().items():
        print(title)
        for name, said in rows:
            print(printable(f"  {name:24}{said}"))
    if not args.no_check:
        check()


def described() -> dict[str, list[tuple[str, str]]]:
    """Return the parts of the description, each as rows of a name and what there is to say of it."""
    cache = pathlib.Path(pooch.os_cache("resnet_jax"))
    programs = pathlib.Path(jax.config.values["jax_compilation_cache_dir"] or cache / "programs")
    folders = {"cache": cache, "compiled programs": programs, "this folder": pathlib.Path(), "temporary": tempdir()}
    return {
        "Versions": [
            ("resnet_jax", __version__),
            ("Python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, version(name) or "not installed") for name in LIBRARIES),
            *plugins(),
            *((PACKAGES.get(name, name), of_extra(name, extra)) for name, extra in EXTRAS.items()),
        ],
        "Machine": [
            ("processor", f"{processor()}, of which this process may use {usable_cores()}"),
            ("memory", memory()),
            *((f"device {device.id}", on_device(device)) for device in jax.local_devices()),
            ("oneDNN", f"not used: {reason}" if (reason := onednn.missing()) else "used for convolutions on the CPU"),
        ],
        "Folders": [(name, f"{folder.absolute()}: {held(folder)}") for name, folder in folders.items()],
        "Environment": [
            (name, "set" if re.search(SECRET, name) else value)
            for name, value in sorted(os.environ.items())
            if re.fullmatch(VARIABLES, name)
        ],
    }


def check() -> None:
    """Compare two implementations of a network, train a small one and evaluate its checkpoint.

    Raises SelfCheckFailed where a result is not what it should be.
    """
    started = time.perf_counter()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    networks = [create_model("cifar_resnet8", implementation=name) for name in ("fast", "reference")]
    variables = networks[0].init(jax.random.key(0), images, train=False)
    fast, reference = (np.asarray(network.apply(variables, images, train=False)) for network in networks)
    difference = float(np.max(np.abs(fast - reference)))
    if not difference < TOLERANCE:
        raise SelfCheckFailed(f"the fast implementation differs from the reference by {difference:.2g}: report this.")
    config: Any = default_config()
    config.training.steps, config.training.log_every, config.training.batch_size = 90, 45, 32
    config.parallel.devices = 1
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trained = train(config, folder)
        evaluated = evaluate(config, folder)
    if not (math.isfinite(trained["loss"]) and trained["top1"] > 0.5):
        raise SelfCheckFailed(
            f"a network trained to a top-1 of {trained['top1']:.1%} where 90 % is usual: report this."
        )
    if trained["top1"] != evaluated["top1"]:
        raise SelfCheckFailed("the evaluation of a checkpoint differs from that at its end of training: report this.")
    print(
        f"Self-check passed in {time.perf_counter() - started:.0f} s: the fast convolutions agree with JAX's within "
        f"{difference:.1g}, a small network reached {trained['top1']:.1%} on the digits, and so does its checkpoint."
    )


def version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def of_extra(module: str, extra: str) -> str:
    """Return the version of a library of an extra, or how to install it."""
    if importlib.util.find_spec(module) is None:
        return f"not installed: pip install 'resnet-flax[{extra}]'"
    return version(PACKAGES.get(module, module)) or "of another distribution"


def plugins() -> Iterator[tuple[str, str]]:
    """Yield the accelerators' packages that are installed, and their versions."""
    for distribution in importlib.metadata.distributions():
        if re.match(PLUGINS, name := distribution.metadata["Name"] or ""):
            yield name, distribution.version


def on_device(device: Any) -> str:
    """Return the kind of a device, and its memory where it says so."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return f"{device.platform}, {device.device_kind}{f', {gib(limit)} of memory' if limit else ''}"


def memory() -> str:
    """Return the free and the whole memory of the machine."""
    file = pathlib.Path("/proc/meminfo")
    found = dict(re.findall(r"^(\w+): +(\d+) kB", file.read_text(), re.MULTILINE)) if file.exists() else {}
    if not found:
        return "unknown"
    return f"{gib(1024 * int(found['MemAvailable']))} free of {gib(1024 * int(found['MemTotal']))}"


def held(folder: pathlib.Path) -> str:
    """Return the free space for a folder, and whether it can be written."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    writable = "" if os.access(there, os.W_OK) else ", cannot be written"
    return f"{gib(shutil.disk_usage(there).free)} free{writable}"


def tempdir() -> pathlib.Path:
    """Return the folder for temporary files."""
    return pathlib.Path(tempfile.gettempdir())


def gib(size: int) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
