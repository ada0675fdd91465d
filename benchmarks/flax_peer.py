"""The peer of `step.py` and `tpu.py` in JAX: the network of the Flax ImageNet example, from its own file."""

import pathlib
import types

from flax import linen as nn


def resnet50(file: str, dtype) -> nn.Module:
    """Return the ResNet-50 of the example's models.py, with BatchNorm over a device's own images, as ours has it."""
    models = types.ModuleType("flax_example_models")
    models.__file__ = file
    source = pathlib.Path(file).read_text().replace("axis_name='batch'", "axis_name=None")
    exec(compile(source, file, "exec"), models.__dict__)
    return models.ResNet50(num_classes=1000, dtype=dtype)
