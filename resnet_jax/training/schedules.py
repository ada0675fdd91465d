"""Learning-rate schedules: linear warm-up, then steps or a cosine, as functions of the step."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ConfigError, nearest

SCHEDULES = ("constant", "step", "cosine", "linear")


def scaled_peak(base: float, batch_size: int, base_batch_size: int) -> float:
    """Return `base * batch_size / base_batch_size`, or `base` where that is 0 (Goyal et al. 2017, arXiv:1706.02677)."""
    return base * batch_size / base_batch_size if base_batch_size else base


def first_step(epochs: np.ndarray, steps_per_epoch: float) -> np.ndarray:
    """Return the first whole step at or after each of some epochs."""
    return np.ceil(epochs * steps_per_epoch - 1e-6).astype(np.int32)


def create_schedule(
    name: str,
    *,
    peak: float,
    steps_per_epoch: float,
    epochs: float,
    boundaries: Sequence[float] = (),
    factor: float = 0.1,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.0,
    end: float = 0.0,
    warmup_overlaps: bool = False,
    step_per_epoch: bool = False,
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """Return the learning rate as a function of the number of steps done.

    Args:
      name: one of `SCHEDULES`.
      peak: the rate after warm-up.
      steps_per_epoch: batch steps in an epoch; need not be whole.
      epochs: where "cosine" and "linear" reach `end`.
      boundaries: epochs at which "step" multiplies the rate by `factor`.
      warmup_epochs: the rate rises linearly from `warmup_start * peak` to `peak` over these.
      end: the last rate of "cosine" (Loshchilov & Hutter 2017, arXiv:1608.03983) and "linear".
      warmup_overlaps: these two begin at step 0, and the warm-up hides their first epochs, as in timm; else they begin
        where the warm-up ends.
      step_per_epoch: hold the rate within each epoch, as torchvision's reference training does.
    """
    if name not in SCHEDULES:
        raise ConfigError(
            f"no schedule is called {name!r}{nearest(name, SCHEDULES)}; use one of {', '.join(SCHEDULES)}."
        )

    begin = 0.0 if warmup_overlaps else warmup_epochs
    epoch_starts = first_step(np.arange(1, math.ceil(epochs) + 1), steps_per_epoch)
    boundary_steps = first_step(np.asarray(boundaries, np.float64), steps_per_epoch)

    def schedule(step):
        step = jnp.asarray(step, jnp.int32)
        epoch = step.astype(jnp.float32) / steps_per_epoch
        if step_per_epoch:
            epoch = jnp.sum(step >= epoch_starts).astype(jnp.float32)
        progress = jnp.clip((epoch - begin) / max(epochs - begin, 1e-9), 0.0, 1.0)
        if name == "step":
            rate = peak * jnp.power(factor, jnp.sum(step >= boundary_steps).astype(jnp.float32))
        elif name == "cosine":
            rate = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        elif name == "linear":
            rate = peak + (end - peak) * progress
        else:
            rate = jnp.asarray(peak, jnp.float32)
        if warmup_epochs > 0:
            ramp = warmup_start + (1.0 - warmup_start) * epoch / warmup_epochs
            rate = jnp.where(epoch < warmup_epochs, peak * ramp, rate)
        return rate

    return schedule
