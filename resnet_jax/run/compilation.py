"""The folder in which compiled programs are kept, so that a second start begins at once."""

import hashlib
import os
import pathlib
import platform

import jax
import pooch

LARGEST = 4 * 2**30  # bytes; what was used longest ago goes first


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another.

    A home that several machines share has a folder for each kind of processor: code for one may not run on another.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = pathlib.Path(pooch.os_cache("resnet_jax")) / "programs" / processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", LARGEST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def processor() -> str:
    """Return a name for the kind of processor: its architecture and its features."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))] or lines
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(set(kind))).encode()).hexdigest()[:12]}"
