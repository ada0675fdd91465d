"""The peer of `step.py` and `accelerators.py` in JAX: networks of the Flax ImageNet example, from their own file."""

import pathlib
import types

from flax import linen as nn

NETWORKS = {f"resnet{depth}": f"ResNet{depth}" for depth in (18, 34, 50, 101, 152)}


def network(file: str, name: str, dtype) -> nn.Module:
    """Return a network of the example's models.py, with BatchNorm over a device's own images, as ours has it."""
    models = types.ModuleType("flax_example_models")
    models.__file__ = file
    source = pathlib.Path(file).read_text().replace("axis_name='batch'", "axis_name=None")
    exec(compile(source, file, "exec"), models.__dict__)
    return getattr(models, NETWORKS[name])(num_classes=1000, dtype=dtype)
