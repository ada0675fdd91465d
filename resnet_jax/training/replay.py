"""Replay: the step at which a run diverged, once more, from the newest checkpoint before it.

Nothing has to be kept for it during the run: the batch of a step is a pure function of seed and step.
"""

import contextlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.training.loop import dispatches
from resnet_jax.training.state import TrainState
from resnet_jax.training.trainer import Trainer


def advance(trainer: Trainer, state: TrainState, first: int, last: int) -> tuple[TrainState, dict[str, Any]]:
    """Return the state after `last` steps, from one that has done `first`, and the metrics of the last step.

    Nothing is looked at, logged or saved in between. The state that goes in is donated.
    """
    key = trainer.key()
    data = trainer.devices.replicate(trainer.train_loader.data)
    ranges = [(start, min(end, last)) for start, end in dispatches(trainer, first) if start < last]
    means = {}
    with contextlib.closing(trainer.train_loader.batches(ranges)) as batches:
        for rows in batches:
            dispatch = trainer.devices.shard(rows, trainer.steps_per_call)
            state, means = trainer.train_program(state, data, dispatch, key)
    if not ranges:
        return state, {}
    start, end = ranges[-1]
    return state, {name: values[end - start - 1].item() for name, values in jax.device_get(means).items()}


def replay(trainer: Trainer, state: TrainState, step: int) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Take step number `step`, counted from 1, from a state that has done fewer.

    Returns:
      The arrays that the step began with, by name: parameters, statistics, and the batch of this host, with each
      example's number in the data set ("batch/index", where the loader knows it) and place in the stream of all.
      The metrics of the step.
      The names of the parameters that it made infinite or undefined.
    """
    state, _ = advance(trainer, state, int(state.step), step - 1)
    loader = trainer.train_loader
    with contextlib.closing(loader.batches([(step - 1, step)])) as batches:
        row = {name: values[0] for name, values in next(batches).items()}
    batch = jax.device_get(row | loader.read(*jax.device_put((loader.data, row))))
    before = flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")
    before = {name: np.array(array) for name, array in before.items()}
    before |= {f"batch/{name}": array for name, array in batch.items()}
    state, means = advance(trainer, state, step - 1, step)
    params: dict[str, Any] = flatten_dict(jax.device_get(state.params), sep="/")
    non_finite = [name for name, array in params.items() if not np.isfinite(array).all()]
    return before, means, non_finite
