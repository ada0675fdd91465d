"""Operations of residual networks as plain functions of arrays: nothing in here knows of Flax.

Each takes a static argument `implementation`:

* "reference" is ordinary JAX. It supports every transformation: `jvp`, `vjp`, Hessian-vector products by either mode
  over either, `vmap`, `linearize`, `jax.checkpoint` and `jax.export` with a symbolic batch.
* "fast" computes the same values and gradients by the program that measured best on the platform that is compiled for.
  Convolution and ReLU keep every transformation except that a program that calls oneDNN (CPU) cannot be exported
  without `jax.export.DisabledSafetyCheck.custom_call`. BatchNorm in training and max-pooling have gradients of their
  own (`jax.custom_vjp`): reverse mode to any order, `vmap` and `jax.checkpoint` work, and forward mode (`jvp`,
  `linearize`, forward-over-reverse) does not.

`choice.py` is the table of which program serves which platform, direction and shape, with the record that pays for it.
"""

from typing import Literal, get_args

from resnet_jax.ops import choice  # noqa: F401 (registers what each platform runs)
from resnet_jax.ops.batch_norm import batch_norm, normalize
from resnet_jax.ops.blur import blur
from resnet_jax.ops.convolution import Window, convolve
from resnet_jax.ops.max_pool import Pooling, max_pool
from resnet_jax.ops.projection import project, widens
from resnet_jax.ops.relu import relu

Implementation = Literal["fast", "reference"]
IMPLEMENTATIONS: tuple[str, ...] = (*get_args(Implementation), "fast_covariance", "fast_maps")

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "Pooling",
    "Window",
    "batch_norm",
    "blur",
    "convolve",
    "max_pool",
    "normalize",
    "project",
    "relu",
    "widens",
]
