"""An trainer: all that the loop needs, and nothing that it would have to look up in a config."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax

from resnet_jax.data.pipeline import Resident, Streamed
from resnet_jax.training.loss_scale import DynamicLossScale
from resnet_jax.training.parallel import Devices
from resnet_jax.training.state import TrainState, create_state
from resnet_jax.weights import load_weights
from resnet_jax.weights.presets import Preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """A network, its data, its update rule, and how often what is done.

    Attributes:
      model: the network.
      optimizer: the update rule.
      learning_rate: step to learning rate.
      devices: the mesh.
      train_loader, eval_loader: the batches.
      train_program: (state, data, dispatch, key) to (state, means of each step).
      eval_program: (params, batch_stats, data, dispatch) to the sums.
      image_shape: (height, width, channels).
      seed: of the parameters and the augmentation.
      total_steps: at which training ends.
      epoch_steps: steps in an epoch; need not be whole.
      batch_size: global.
      steps_per_call: most steps that one program runs.
      log_every: steps.
      evaluate_every, save_every: steps between evaluations and checkpoints; need not be whole.
      keep_average: whether moving averages are kept.
      guarded: whether steps that are not finite may be left out.
      scaled: whether the loss is scaled, for float16.
      init_from: weights file or run with which the first step begins, or None.
      init_adapt: whether weights of another head or of other images are made to fit.
      init_from_ema: whether a run's moving averages are taken.
      preset: what the weights expect of an image, and what they say about it.
      config: all fields as the trainer has them, as JSON values.
      identity: returns what identifies the data, as `data.identity.identity` does.
      data: sentences on what was found where: images, splits and classes.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: Callable
    devices: Devices
    train_loader: Resident | Streamed
    eval_loader: Resident | Streamed
    train_program: Callable
    eval_program: Callable
    image_shape: tuple[int, int, int]
    seed: int
    total_steps: int
    epoch_steps: float
    batch_size: int
    steps_per_call: int
    log_every: int
    evaluate_every: float
    save_every: float
    keep_average: bool
    guarded: bool
    scaled: bool
    init_from: str | None
    init_adapt: bool
    init_from_ema: bool
    preset: Preset
    config: dict[str, Any]
    identity: Callable[[], dict[str, Any]]
    data: tuple[str, ...]

    def initial_state(self) -> TrainState:
        """Return the state before the first step, on every device.

        Raises DataError if `init_from` holds no weights of the network, CheckpointError if it is a run without them.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), 0)
        weights = None
        if self.init_from:
            read = functools.partial(load_weights, adapt=self.init_adapt, average=self.init_from_ema, key=key)
            size, _, channels = self.image_shape
            weights = read(self.model, self.init_from, channels=channels, size=size)
        guard = DynamicLossScale.create(self.scaled) if self.guarded else None
        state = create_state(self.model, self.optimizer, key, self.image_shape, self.keep_average, weights, guard)
        return self.devices.replicate(state)

    def close(self) -> None:
        """End the worker processes of the loaders."""
        self.train_loader.close()
        self.eval_loader.close()

    def key(self) -> jax.Array:
        """Return the key of all augmentation and dropout, on every device."""
        return self.devices.replicate(jax.random.fold_in(jax.random.key(self.seed), 1))
