"""The train state: everything that a step changes, and all that a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from resnet_jax.models.initialization import initialize
from resnet_jax.training.loss_scale import DynamicLossScale


@struct.dataclass
class EMA:
    """Exponential moving averages of the parameters and of the BatchNorm statistics."""

    params: Any
    batch_stats: Any


@struct.dataclass
class TrainState:
    """What step k hands to step k + 1.

    Attributes:
      step: steps done, int32.
      params: float32 parameters.
      batch_stats: running BatchNorm means and variances, float32; empty for a network without BatchNorm.
      opt_state: the optimizer's.
      average: an `EMA`, or None where none are kept.
      guard: a `DynamicLossScale`, or None where a step that is not finite ends the run.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    guard: Any = None


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    keep_average: bool = False,
    variables: dict[str, Any] | None = None,
    guard: DynamicLossScale | None = None,
) -> TrainState:
    """Return the state before the first step.

    Args:
      model: the network.
      optimizer: whose state belongs to it.
      key: from which the parameters are drawn.
      image_shape: (height, width, channels).
      keep_average: whether moving averages are kept.
      variables: parameters and statistics to begin with, in place of new ones.
      guard: against steps that are not finite.
    """
    if variables is None:
        variables = initialize(model, key, image_shape)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = jax.tree.map(jnp.copy, EMA(params, batch_stats)) if keep_average else None
    opt_state = jax.jit(optimizer.init)(params)  # one program, where each array would be one
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, average, guard)
