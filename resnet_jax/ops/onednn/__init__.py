"""Convolutions by oneDNN, the library behind torch's on CPU, called by XLA where they are ready.

XLA's own convolutions take 1.3 to 2 times as long on a CPU, and grouped ones 10 to 40 times. `convolution.cc` is
compiled once by the machine's C++ compiler and kept in the user's cache folder; where there is no compiler or no
oneDNN, on other systems and processors, `missing()` says what, and XLA does the work.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch

from resnet_jax.ops.convolution import DIRECTIONS, Window, result_shape

LIBRARY, HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"  # as PyPI has them


def convolve(direction: str, a: jax.Array, b: jax.Array, window: Window, sides: Any = None) -> jax.Array:
    """Return one direction of a convolution, computed in float32, in the type of `a`.

    Args:
      direction: one of `DIRECTIONS`.
      a, b: images and kernel; output gradient and kernel for "input_gradient"; images and output gradient for
        "kernel_gradient". Images are NHWC, kernels (height, width, in_channels / groups, channels).
      window: stride, dilation and groups.
      sides: (height, width) of the images or of the kernel that a gradient has; None for "forward".

    Raises RuntimeError where `missing()` is not None.
    """
    if reason := missing():
        raise RuntimeError(f"oneDNN cannot be used: {reason}")
    kernel_size = sides[0] if direction == "kernel_gradient" else b.shape[0]
    shape = result_shape(direction, a, b, window, sides)
    call = jax.ffi.ffi_call(
        f"resnet_jax_onednn_{direction}", jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential"
    )
    fields = dict(
        stride=window.stride, dilation=window.dilation, padding=window.padding(kernel_size), groups=window.groups
    )
    result = call(*(x.astype(jnp.float32) for x in (a, b)), **{name: np.int64(each) for name, each in fields.items()})
    return result.astype(a.dtype)


@functools.cache
def missing() -> str | None:
    """Return None if oneDNN can be used, else why it cannot. The first call compiles, in some seconds."""
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, LookupError, ImportError, subprocess.SubprocessError) as error:
        return str(error)
    for direction in DIRECTIONS:
        capsule = jax.ffi.pycapsule(getattr(library, direction))
        jax.ffi.register_ffi_target(f"resnet_jax_onednn_{direction}", capsule, platform="cpu")
    return None


def _compiled() -> pathlib.Path:
    """Return the compiled library, compiling it unless the cache has it for these versions."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise LookupError(f"it is not packaged for {platform.system()} on {platform.machine()}.")
    source = importlib.resources.files("resnet_jax.ops.onednn").joinpath("convolution.cc").read_bytes()
    versions = [importlib.metadata.version(name) for name in ("jaxlib", LIBRARY, HEADERS)]
    shared, header = _installed(LIBRARY, "libdnnl.so.3"), _installed(HEADERS, "oneapi/dnnl/dnnl.hpp")
    key = hashlib.sha256(b"\0".join([source, *(str(part).encode() for part in (*versions, shared))])).hexdigest()[:16]
    made = pathlib.Path(pooch.os_cache("resnet_jax")) / "onednn" / f"{key}.so"
    if made.exists():
        return made

    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise LookupError("there is no C++ compiler: install g++.")
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        unit, built = pathlib.Path(folder, "convolution.cc"), pathlib.Path(folder, made.name)
        unit.write_bytes(source)
        includes = (f"-I{header.parents[2]}", f"-I{jax.ffi.include_dir()}")
        command = (compiler, "-O2", "-std=c++17", "-shared", "-fPIC", "-w", *includes, unit, "-o", built)
        done = subprocess.run(
            [*command, shared, f"-Wl,-rpath,{shared.parent}"], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise LookupError(f"{compiler} failed: {(done.stderr.strip() or 'it says nothing').splitlines()[0]}")
        os.replace(built, made)  # two processes may compile at once: each sees a whole file
    return made


def _installed(package: str, file: str) -> pathlib.Path:
    """Return where a package has put a file."""
    for entry in importlib.metadata.files(package) or ():
        if str(entry).endswith(file):
            return pathlib.Path(entry.locate()).resolve()
    raise LookupError(f"{package} has no {file}: install it again.")
