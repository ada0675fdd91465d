"""What can be known of the user's own code before a run begins: it is called once, on shapes alone."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.pipeline import Resident, Streamed
from resnet_jax.data.sources.dataset import transformed
from resnet_jax.errors import ConfigError, UserError
from resnet_jax.lookup import described
from resnet_jax.training.loss_scale import DynamicLossScale
from resnet_jax.training.parallel import Dispatch
from resnet_jax.training.state import create_state
from resnet_jax.training.trainer import Trainer


def check_own_code(trainer: Trainer, network: Iterable[str]) -> None:
    """Trace the train and the evaluation program, and change one training image as the host does.

    Args:
      trainer: of a run.
      network: names of the network and its block that are the user's own.

    Raises ConfigError for what the user's network, block, optimizer, loss, metrics or transforms raise, and for what
    they return in another shape or type than they must.
    """
    for loader in (trainer.train_loader, trainer.eval_loader):
        if isinstance(loader, Streamed) and len(loader.split):
            transformed(loader.split, 0, loader.transform, np.random.Generator(np.random.Philox(0)), None)
    key = jax.random.key(0)
    try:
        check_network(trainer)
        guard = DynamicLossScale.create(trainer.scaled) if trainer.guarded else None

        def first_state(key):
            new = functools.partial(create_state, keep_average=trainer.keep_average, guard=guard)
            return new(trainer.model, trainer.optimizer, key, trainer.image_shape)

        state = jax.eval_shape(first_state, key)
        with jax.transfer_guard("allow"):
            loader = trainer.train_loader
            dispatch = shapes_of_dispatch(loader, trainer.image_shape)
            jax.eval_shape(trainer.train_program, state, shapes(loader.data), dispatch, key)
            loader = trainer.eval_loader
            dispatch = shapes_of_dispatch(loader, trainer.image_shape)
            jax.eval_shape(trainer.eval_program, state.params, state.batch_stats, shapes(loader.data), dispatch)
    except UserError:
        raise
    except Exception as error:  # The user's code may raise anything, and so may what it hands to Flax and Optax.
        own = " or ".join(network) or "the config's own code"
        raise ConfigError(f"{own} cannot be trained: {described(error)}.") from error


def check_network(trainer: Trainer) -> None:
    """Raise ConfigError if a network does not give float32 logits of its classes."""
    model, images = trainer.model, jax.ShapeDtypeStruct((2, *trainer.image_shape), jnp.float32)
    logits = jax.eval_shape(lambda images: model.init_with_output(jax.random.key(0), images, train=False)[0], images)
    found = jax.tree.map(lambda x: f"{x.dtype} {x.shape}", logits)
    if found != f"float32 (2, {model.num_classes})":
        raise ConfigError(
            f"{type(model).__name__} returns {found} for two images: return float32 logits (2, {model.num_classes})."
        )


def shapes_of_dispatch(loader: Resident | Streamed, image_shape: tuple[int, int, int]) -> Dispatch:
    """Return the shapes of a dispatch of one step, over all hosts."""
    rows = {name: (values.shape[1:], values.dtype) for name, values in loader.order.rows(0).items()}
    if isinstance(loader, Streamed):
        del rows["index"]
        rows |= {"image": (image_shape, jnp.uint8), "label": ((), jnp.int32)}
    laid = {
        name: jax.ShapeDtypeStruct((1, loader.order.batch_size, *shape), dtype) for name, (shape, dtype) in rows.items()
    }
    return Dispatch(laid, jax.ShapeDtypeStruct((), jnp.int32))


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of arrays by name."""
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
