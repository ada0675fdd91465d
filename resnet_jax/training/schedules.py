"""Learning-rate schedules: linear warm-up, then steps or a cosine, as functions of the step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lookup import Own, call_with_fields, is_import, lookup

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
      name: one of `SCHEDULES`, or "module:name": a function of those of these arguments, and of `total_steps`, that its
        signature names, to a schedule.
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
    if is_import(name):
        fields = dict(peak=peak, steps_per_epoch=steps_per_epoch, epochs=epochs, boundaries=boundaries, factor=factor)
        fields |= dict(warmup_epochs=warmup_epochs, warmup_start=warmup_start, end=end, warmup_overlaps=warmup_overlaps)
        return own_schedule(
            name, fields | dict(step_per_epoch=step_per_epoch, total_steps=round(epochs * steps_per_epoch))
        )
    if name not in SCHEDULES:
        raise ConfigError(
            f"no schedule is called {name!r}{nearest(name, SCHEDULES)}; use one of {', '.join(SCHEDULES)}, or your own "
            'as "module:name".'
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


def own_schedule(name: str, fields: Mapping[str, Any]) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """Return the schedule that a function of the user's makes of the fields that it names.

    Raises ConfigError if it does not return a function of the step to one number.
    """
    made = call_with_fields("schedule", name, lookup("schedule", name, {}), fields)
    if not callable(made):
        raise ConfigError(f"the schedule {name!r} returns {type(made).__name__}: return a function of the step.")
    made = Own("schedule", name, made)

    def schedule(step):
        rate = jnp.asarray(made(jnp.asarray(step, jnp.int32)))
        if rate.shape != () or not jnp.issubdtype(rate.dtype, jnp.number):
            raise ConfigError(f"the schedule {name!r} gives shape {rate.shape} and {rate.dtype}: give one number.")
        return rate.astype(jnp.float32)

    jax.eval_shape(schedule, 0)
    return schedule
