"""The train step and the evaluation step: pure functions of one shard of a batch.

Neither knows how many shards there are. What has to be known of the others comes through `average`, which `parallel.py`
gives.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from resnet_jax.training import losses, metrics
from resnet_jax.training.loss_scale import choose
from resnet_jax.training.state import EMA, TrainState

Batch = dict[str, jax.Array]
Tree = Any


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    augment: Callable,
    loss: Callable = losses.cross_entropy,
    counted: metrics.Metrics = metrics.METRICS,
    microbatches: int = 1,
    ema_decay: float = 0.0,
    skip_nonfinite: int = 0,
    average: Callable[[Tree], Tree] = lambda tree: tree,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step on one shard.

    Args:
      state: the same on every shard.
      batch: "image" uint8 (batch, height, width, channels), "label" int32 (batch,), and "position" uint32 (batch,), the
        example's place in the stream of all training examples.
      key: of the run, the same at every step: randomness comes from it and the positions.
      augment: (key, images, labels, positions) to the float images and the target probabilities to train on.
      loss: (logits, targets) to one loss an example.
      counted: the metrics of which means are returned, by name.
      microbatches: parts that the shard is cut into; their gradients are averaged before the update, and each
        normalizes itself.
      ema_decay: of the moving averages that the state keeps; early ones decay faster, by (1 + step) / (10 + step).
      skip_nonfinite: most steps of a run that its guard, if the state has one, may leave out.
      average: returns the mean of a tree of float32 arrays over all shards.

    Returns:
      The new state, and the means of the metrics over the whole batch, the gradient's norm, and 1 as "failed"
      if the run has. Of a guarded state also how many steps were "skipped", and the "loss_scale" if there is one.
    """
    scale = 1.0 if state.guard is None or state.guard.scale is None else state.guard.scale
    augment_key, dropout_key = jax.random.split(key)
    images, targets = augment(augment_key, batch["image"], batch["label"], batch["position"])

    def gradient(params, batch_stats, images, targets, labels, position):
        def objective(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(dropout_key, position)},
            )
            per_example = loss(logits, targets)
            sums = metrics.count(logits, labels, per_example, jnp.ones(labels.shape, bool), counted)
            return scale * jnp.mean(per_example), (sums, updates.get("batch_stats", {}))

        gradients, (sums, batch_stats) = jax.grad(objective, has_aux=True)(params)
        return gradients, sums, batch_stats

    def averaged(params):
        # A Python loop, not lax.scan: XLA on CPU runs a convolution inside a loop on one thread and 30 times slower.
        batch_stats, parts = state.batch_stats, []
        shards = split((images, targets, batch["label"], batch["position"]), microbatches)
        for some_images, some_targets, labels, positions in shards:
            gradients, sums, batch_stats = gradient(
                params, batch_stats, some_images, some_targets, labels, positions[0]
            )
            parts.append((gradients, sums))
        gradients, sums = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
        gradients = jax.tree.map(lambda total: total / (microbatches * scale), gradients)
        return average((gradients, batch_stats, sums.averages()))

    gradients, batch_stats, means = averaged(state.params)
    means["gradient_norm"] = optax.tree.norm(gradients)
    finite = jnp.isfinite(means["loss"]) & jnp.isfinite(means["gradient_norm"])
    # What some rules need besides: the loss, and the gradient at other parameters, which others never compute.
    extra = dict(value=means["loss"], grad=gradients, grad_fn=lambda params, _: averaged(params)[0])
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradients, state.opt_state, state.params, **extra
    )
    params = optax.apply_updates(state.params, updates)
    moving = moved(state, EMA(params, batch_stats), ema_decay)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, moving)
    return guarded(state, new, means, finite, skip_nonfinite)


def moved(state: TrainState, latest: EMA, ema_decay: float) -> EMA | None:
    """Return the moving averages after a step, if the state keeps any; early ones decay faster."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.average, latest)


def guarded(
    state: TrainState, new: TrainState, means: dict[str, jax.Array], finite: jax.Array, skip_nonfinite: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Return the new state, or the old one where a guarded step is not finite, and the means with what came of it."""
    if state.guard is None:
        return new, means | {"failed": (~finite).astype(jnp.int32)}
    guard = state.guard.after(means["loss"], finite)
    means |= {"failed": (guard.skipped > skip_nonfinite).astype(jnp.int32), "skipped": guard.skipped}
    means |= {} if guard.scale is None else {"loss_scale": guard.scale}
    kept = dataclasses.replace(state, step=new.step, guard=None)
    return dataclasses.replace(choose(finite, new, kept), guard=guard), means


def eval_step(
    params: Tree,
    batch_stats: Tree,
    batch: Batch,
    *,
    model: nn.Module,
    inputs: Callable,
    flip: bool = False,
    counted: metrics.Metrics = metrics.METRICS,
) -> metrics.Sums:
    """Return the sums over the valid examples of one shard: "image" and "label" as above, "valid" bool (batch,).

    `inputs` turns uint8 images into what the network reads. The loss is the cross-entropy without smoothing, whatever
    the network was trained on. With `flip`, the logits are the means of those of an image and of its mirror image.
    """
    network = functools.partial(model.apply, {"params": params, "batch_stats": batch_stats}, train=False)
    images = inputs(batch["image"])
    logits: Any = network(images)
    if flip:
        logits = 0.5 * (logits + network(images[:, :, ::-1]))
    per_example = losses.cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
    return metrics.count(logits, batch["label"], per_example, batch["valid"], counted)


def split(arrays: tuple[jax.Array, ...], parts: int) -> list[tuple[jax.Array, ...]]:
    """Split arrays into `parts` along their first axis."""
    return list(zip(*(jnp.split(array, parts) for array in arrays), strict=True))
