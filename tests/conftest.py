"""What every test has: eight CPU devices, and shapes that are checked against their annotations."""

import os

# Before JAX is imported: a mesh of up to eight devices is then a test like any other.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

from jaxtyping import install_import_hook

SHAPED = ("models", "data", "training", "weights")
install_import_hook([f"resnet_jax.{package}" for package in SHAPED], "beartype.beartype")

import pytest  # noqa: E402

from resnet_jax.config import default_config  # noqa: E402


@pytest.fixture
def small_config():
    """A run of some seconds: a network of two small stages on the digits."""
    config = default_config()
    config.model.name = "cifar_resnet8"
    config.model.overrides.stage_sizes = (1, 1)
    config.model.overrides.stage_widths = (8, 16)
    config.model.overrides.stem_width = 8
    config.augment.pad = 1
    config.training.batch_size = 96
    config.training.epochs = 3.0
    config.training.log_every = 5
    config.evaluation.batch_size = 96
    config.parallel.devices = 1
    return config
