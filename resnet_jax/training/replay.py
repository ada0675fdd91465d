"""Replay: the step at which a run diverged, once more, from the newest checkpoint before it.

Nothing has to be kept for it while the run goes on: the batch of a step is a pure function of seed and step.
"""

import contextlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from resnet_jax.training.experiment import Experiment
from resnet_jax.training.loop import dispatches
from resnet_jax.training.state import TrainState


def advance(experiment: Experiment, state: TrainState, first: int, last: int) -> tuple[TrainState, dict[str, Any]]:
    """Return the state after `last` steps, from one that has done `first`, and the metrics of the last step.

    Nothing is looked at, logged or saved in between. The state that goes in is donated.
    """
    key = experiment.key()
    data = experiment.devices.replicate(experiment.train_feed.data)
    cuts = [(start, min(end, last)) for start, end in dispatches(experiment, first) if start < last]
    with contextlib.closing(experiment.train_feed.chunks(cuts)) as chunks:
        for rows in chunks:
            dispatch = experiment.devices.scatter(rows, experiment.steps_per_dispatch)
            state, means = experiment.train_program(state, data, dispatch, key)
    if not cuts:
        return state, {}
    start, end = cuts[-1]
    return state, {name: values[end - start - 1].item() for name, values in jax.device_get(means).items()}


def replay(experiment: Experiment, state: TrainState, step: int) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Take step number `step`, counted from 1, from a state that has done fewer.

    Returns:
      The arrays that the step began with, by name: parameters, statistics, and the batch of this host, with each
      example's number in the data set ("batch/index", where the feed knows it) and place in the stream of all.
      The metrics of the step.
      The names of the parameters that it made infinite or undefined.
    """
    state, _ = advance(experiment, state, int(state.step), step - 1)
    feed = experiment.train_feed
    with contextlib.closing(feed.chunks([(step - 1, step)])) as chunks:
        row = {name: values[0] for name, values in next(chunks).items()}
    batch = jax.device_get(row | feed.read(*jax.device_put((feed.data, row))))
    before = flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")
    before = {name: np.array(array) for name, array in before.items()}
    before |= {f"batch/{name}": array for name, array in batch.items()}
    state, means = advance(experiment, state, step - 1, step)
    params = flatten_dict(jax.device_get(state.params), sep="/")
    spoiled = [name for name, array in params.items() if not np.isfinite(array).all()]
    return before, means, spoiled
