"""What every test has: eight CPU devices, and shapes that are checked against their annotations."""

import os

# Before JAX is imported: a mesh of up to eight devices is then a test like any other.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

from jaxtyping import install_import_hook

SHAPED = ("models", "data", "training", "weights")
install_import_hook([f"resnet_jax.{package}" for package in SHAPED], "beartype.beartype")

import pytest  # noqa: E402

from tests import small  # noqa: E402


@pytest.fixture
def small_config():
    """A run of some seconds, that a test may change."""
    return small.config()
