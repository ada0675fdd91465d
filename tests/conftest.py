"""What every test has: eight CPU devices, and shapes that are checked against their annotations."""

import os
import pathlib

# Before JAX is imported: a mesh of up to eight devices is then a test like any other.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
# Each of pytest's workers has a core to itself: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Many tests compile the same small programs: a cache beside pytest's own makes each of them compile once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from jaxtyping import install_import_hook

SHAPED = ("lab.analysis", "models", "ops", "training", "weights", "data.augment", "data.pipeline")
install_import_hook([f"resnet_jax.{package}" for package in SHAPED], "beartype.beartype")

import pytest  # noqa: E402

from tests import processes, small  # noqa: E402

# What `make test-fast` runs: modules that train nothing, compile little and start few processes.
FAST = (
    "data/test_decoding.py",
    "data/test_pipeline.py",
    "data/test_policies.py",
    "data/test_transforms.py",
    "test_config.py",
    "run/test_interrupts.py",
    "run/test_progress.py",
    "run/test_workdir.py",
    "lab/test_sweep.py",
    "lab/test_sweep_runner.py",
    "run/test_workers.py",
    "training/test_metrics.py",
    "training/test_schedules.py",
    "weights/test_files.py",
    "weights/test_presets.py",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path.relative_to(pathlib.Path(__file__).parent)) in FAST:
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """Ends what the test has started, also where it failed."""
    yield
    processes.end_all()


@pytest.fixture
def small_config():
    """A run of some seconds, that a test may change."""
    return small.config()
