"""Weights of a run of this project: the parameters and statistics of its newest checkpoint."""

import contextlib
from pathlib import Path
from typing import Any

import absl.logging
import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp

from resnet_jax.checkpoints import Checkpoints, first_line
from resnet_jax.errors import CheckpointError, DataError
from resnet_jax.weights.presets import RUN_FILE, of_weights


def is_run(folder: str | Path) -> bool:
    """Whether this is the folder of a run that can be read."""
    return (Path(folder) / RUN_FILE).is_file()


def load_run(model: nn.Module, folder: str | Path) -> dict[str, Any]:
    """Return the variables of `model` from the newest checkpoint of a run, in float32 on the host.

    Raises:
      CheckpointError: there is no checkpoint, or the newest cannot be read.
      DataError: it is of another network.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each of its steps.
    place = Path(folder).absolute() / "checkpoints"
    with contextlib.closing(Checkpoints(place, read_only=True)) as checkpoints:
        steps = checkpoints.steps
    if not steps:
        raise CheckpointError(f"{folder} has no checkpoint yet: train for longer, or name other weights.")
    try:
        variables = _restored(place / str(steps[-1]) / "default")
    except Exception as error:  # Orbax raises whatever its storage layers raise.
        raise CheckpointError(
            f"The checkpoint of step {steps[-1]} in {folder} cannot be read ({first_line(error)}): start the run once "
            "more, which sets it aside and goes on from the one before it."
        ) from error
    images = jax.ShapeDtypeStruct((1, 32, 32, len(of_weights(folder).mean)), np.float32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), images)
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, wanted):
        raise DataError(f"{folder} is the run of another network: name no --model, and the run's own is taken.")
    return variables


def _restored(checkpoint: Path) -> dict[str, Any]:
    """Return parameters and statistics, and nothing else, of one checkpoint."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(checkpoint).item_metadata.tree
        wanted = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), wanted)
        return reader.restore(
            checkpoint, args=ocp.args.PyTreeRestore(item=shapes, restore_args=arguments, partial_restore=True)
        )
