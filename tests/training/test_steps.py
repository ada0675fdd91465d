import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.augment import Augment
from resnet_jax.models.resnet import ResNet
from resnet_jax.training.losses import binary_cross_entropy
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.steps import eval_step, split, train_step

CLASSES, BATCH, SHAPE = 7, 8, (8, 8, 3)
MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)
RATE, DECAY = 0.1, 0.01
NETWORK = ResNet(stage_sizes=(1, 1), stage_widths=(8, 16), stem="cifar", stem_width=8, num_classes=CLASSES)
SGD = create_optimizer("sgd", lambda step: jnp.float32(RATE), momentum=0.9, weight_decay=DECAY)
NOTHING = Augment(mean=MEAN, std=STD, num_classes=CLASSES)
CROP = Augment(mean=MEAN, std=STD, num_classes=CLASSES, pad=2, flip=True)


class Linear(nn.Module):
    """A network in which no example sees another."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES)(x)


class Normed(nn.Module):
    """A small network with statistics."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(4)(images.reshape(len(images), -1))
        return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


def batch_of(seed=0, size=BATCH, first_position=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, *SHAPE), np.uint8)),
        "label": jnp.asarray(rng.integers(0, CLASSES, size, np.int32)),
        "position": jnp.arange(first_position, first_position + size, dtype=jnp.uint32),
    }


@functools.cache
def state_of(model, keep_average=False):
    return create_state(model, SGD, jax.random.key(0), SHAPE, keep_average)


@functools.cache
def step_of(model, augment=NOTHING, **options):
    return jax.jit(functools.partial(train_step, model=model, optimizer=SGD, augment=augment, **options))


def read_by_hand(images):
    return ((np.asarray(images) / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


@functools.cache
def gradient_by_hand(model):
    """(params, batch_stats, images, labels) to the loss's gradient, the new statistics, the losses and the logits."""

    def objective(params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(labels)), labels]
        return losses.mean(), (updates.get("batch_stats", {}), losses, logits)

    def gradient(*arguments):
        gradients, rest = jax.grad(objective, has_aux=True)(*arguments)
        return gradients, *rest

    return jax.jit(gradient)


def assert_close(one, other, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), one, other)


def first_update(params, gradients):
    """The first step of SGD: its momentum is 0 yet."""
    return jax.tree.map(lambda weights, g: weights - RATE * (g + DECAY * weights), params, gradients)


def test_a_step_is_the_gradient_of_the_mean_loss_and_an_update_of_sgd():
    state, batch = state_of(NETWORK), batch_of()
    after, means = step_of(NETWORK)(state, batch, jax.random.key(1))

    images = read_by_hand(batch["image"])
    gradients, batch_stats, losses, logits = gradient_by_hand(NETWORK)(
        state.params, state.batch_stats, images, batch["label"]
    )
    assert_close(after.params, first_update(state.params, gradients))
    assert_close(after.batch_stats, batch_stats)
    assert int(after.step) == 1 and after.average is None

    order = np.argsort(-np.asarray(logits), axis=1)
    labels = np.asarray(batch["label"])[:, None]
    assert means.keys() == {"loss", "top1", "top5", "gradient_norm", "failed"} and not means["failed"]
    np.testing.assert_allclose(means["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(means["top1"], np.mean(order[:, :1] == labels), rtol=1e-6)
    np.testing.assert_allclose(means["top5"], np.mean(np.any(order[:, :5] == labels, axis=1)), rtol=1e-6)
    squares = sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(means["gradient_norm"], np.sqrt(squares), rtol=1e-4)


def test_microbatches_take_the_mean_gradient_of_parts_that_each_normalize_themselves():
    state, batch = state_of(NETWORK), batch_of()
    after, means = step_of(NETWORK, microbatches=2)(state, batch, jax.random.key(1))

    images, found, batch_stats, losses = read_by_hand(batch["image"]), [], state.batch_stats, []
    for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        gradients, batch_stats, loss, _ = gradient_by_hand(NETWORK)(
            state.params, batch_stats, images[half], batch["label"][half]
        )
        found.append(gradients)
        losses.append(loss)
    gradients = jax.tree.map(lambda one, other: (one + other) / 2, *found)
    assert_close(after.params, first_update(state.params, gradients))
    assert_close(after.batch_stats, batch_stats)  # the second half's, from the first half's
    np.testing.assert_allclose(means["loss"], np.mean(losses), rtol=1e-5)
    assert int(after.step) == 1


@pytest.mark.parametrize("microbatches", [2, 8])
def test_microbatches_change_nothing_where_no_example_sees_another(microbatches):
    model = Linear()
    state, batch, key = state_of(model), batch_of(), jax.random.key(1)
    whole, whole_means = step_of(model, CROP)(state, batch, key)
    parts, parts_means = step_of(model, CROP, microbatches=microbatches)(state, batch, key)
    assert_close(parts.params, whole.params, rtol=1e-5)
    assert_close(parts_means, whole_means, rtol=1e-5)


def test_averages_follow_their_equation_for_parameters_and_statistics_and_decay_faster_early():
    limit, key = 0.15, jax.random.key(1)
    state = state_of(Normed(), keep_average=True)
    step = step_of(Normed(), ema_decay=limit)
    assert_close(state.average.params, state.params)
    average = jax.tree.map(np.asarray, (state.params, state.batch_stats))
    for number, decay in enumerate([0.1, 0.15, 0.15]):  # 1 / 10, then 2 / 11 and 3 / 12, which are above the limit
        state, _ = step(state, batch_of(number), key)
        new = (state.params, state.batch_stats)
        average = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, new)
        assert_close((state.average.params, state.average.batch_stats), average, rtol=1e-5)


def test_without_a_limit_averages_decay_by_their_age():
    model = Linear()
    state, key = state_of(model, keep_average=True), jax.random.key(1)
    average = np.asarray(state.params["Dense_0"]["kernel"])
    for number, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13]):
        state, _ = step_of(model, ema_decay=0.9999)(state, batch_of(number), key)
        average = decay * average + (1 - decay) * np.asarray(state.params["Dense_0"]["kernel"])
        np.testing.assert_allclose(state.average.params["Dense_0"]["kernel"], average, rtol=1e-5, atol=1e-6)


def test_two_shards_take_the_step_of_one():
    model = Linear()
    state, batch, key = state_of(model), batch_of(), jax.random.key(1)
    whole, whole_means = step_of(model, CROP)(state, batch, key)
    halves = jax.tree.map(lambda x: x.reshape(2, BATCH // 2, *x.shape[1:]), batch)
    joined = functools.partial(jax.lax.pmean, axis_name="shards")
    sharded = functools.partial(train_step, model=model, optimizer=SGD, augment=CROP, average=joined)
    parts, parts_means = jax.jit(jax.vmap(sharded, in_axes=(None, 0, None), axis_name="shards"))(state, halves, key)
    for shard in range(2):
        assert_close(jax.tree.map(lambda x, shard=shard: x[shard], parts), whole, rtol=1e-5)
        assert_close(jax.tree.map(lambda x, shard=shard: x[shard], parts_means), whole_means, rtol=1e-5)


def test_the_rows_of_a_batch_can_lie_in_any_order():
    model = Linear()
    state, batch, key = state_of(model), batch_of(), jax.random.key(1)
    order = np.random.default_rng(0).permutation(BATCH)
    whole, whole_means = step_of(model, CROP)(state, batch, key)
    permuted, permuted_means = step_of(model, CROP)(state, {name: rows[order] for name, rows in batch.items()}, key)
    assert_close(permuted.params, whole.params, rtol=1e-5)
    assert_close(permuted_means, whole_means, rtol=1e-5)


def differ(one, other):
    return any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize("model, augment", [(Linear(), CROP), (Linear(dropout=0.5), NOTHING)], ids=["crop", "dropout"])
def test_randomness_comes_from_key_and_positions_and_from_nothing_else(model, augment):
    state, step = state_of(model), step_of(model, augment)
    after, _ = step(state, batch_of(), jax.random.key(1))
    again, _ = step(state.replace(step=jnp.int32(5)), batch_of(), jax.random.key(1))
    assert not differ(after.params, again.params)
    assert differ(after.params, step(state, batch_of(), jax.random.key(2))[0].params)
    assert differ(after.params, step(state, batch_of(first_position=BATCH), jax.random.key(1))[0].params)


def test_each_microbatch_has_a_dropout_of_its_own():
    model = Linear(dropout=0.5)
    state, batch = state_of(model), batch_of(size=2)
    batch = {name: jnp.concatenate([rows, rows]) for name, rows in batch.items()} | {
        "position": jnp.arange(4, dtype=jnp.uint32)
    }
    # With the same mask in both parts, twice the same rows in two parts were the rows once.
    alone = {name: rows[:2] for name, rows in batch.items()}
    parts, _ = step_of(model, microbatches=2)(state, batch, jax.random.key(1))
    once, _ = step_of(model)(state, alone, jax.random.key(1))
    assert differ(parts.params, once.params)


def test_the_gradients_norm_and_the_update_are_of_the_average_over_shards():
    model = Linear()
    state, batch, key = state_of(model), batch_of(), jax.random.key(1)
    _, means = step_of(model)(state, batch, key)
    twice, twice_means = step_of(model, average=lambda tree: jax.tree.map(lambda x: 2 * x, tree))(state, batch, key)
    np.testing.assert_allclose(twice_means["gradient_norm"], 2 * means["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(twice_means["loss"], 2 * means["loss"], rtol=1e-5)
    gradients, *_ = gradient_by_hand(model)(state.params, {}, read_by_hand(batch["image"]), batch["label"])
    assert_close(twice.params, first_update(state.params, jax.tree.map(lambda g: 2 * g, gradients)))


def test_the_loss_of_the_recipe_is_minimized():
    model = Linear()
    state, batch = state_of(model), batch_of()
    _, means = step_of(model, loss=binary_cross_entropy)(state, batch, jax.random.key(1))
    logits = np.asarray(model.apply({"params": state.params}, read_by_hand(batch["image"])), np.float64)
    chances = 1 / (1 + np.exp(-logits))
    hot = np.eye(CLASSES)[np.asarray(batch["label"])]
    expected = -np.mean(hot * np.log(chances) + (1 - hot) * np.log(1 - chances))
    np.testing.assert_allclose(means["loss"], expected, rtol=1e-4)


def test_steps_on_one_batch_learn_it():
    state, batch = state_of(NETWORK), batch_of()
    losses = []
    for _ in range(15):
        state, means = step_of(NETWORK)(state, batch, jax.random.key(1))
        losses.append(float(means["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 15


@functools.cache
def evaluation():
    return jax.jit(functools.partial(eval_step, model=NETWORK, inputs=NOTHING.inputs))


def evaluate(batch, valid):
    state = state_of(NETWORK)
    rows = {"image": batch["image"], "label": batch["label"], "valid": jnp.asarray(valid)}
    return evaluation()(state.params, state.batch_stats, rows)


def test_an_evaluation_counts_valid_rows_by_the_running_statistics():
    state, batch = state_of(NETWORK), batch_of(3)
    valid = np.array([True, True, False, True, False, True, True, False])
    sums = evaluate(batch, valid)
    logits = NETWORK.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, jnp.asarray(read_by_hand(batch["image"]))
    )
    logits, labels = np.asarray(logits, np.float64)[valid], np.asarray(batch["label"])[valid]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), labels]
    order = np.argsort(-logits, axis=1)
    np.testing.assert_allclose(sums.totals["loss"], losses.sum(), rtol=1e-5)
    assert int(sums.examples) == 5
    assert int(sums.totals["top1"]) == np.sum(order[:, 0] == labels)
    assert int(sums.totals["top5"]) == np.sum(order[:, :5] == labels[:, None])


def test_with_flip_an_evaluation_averages_the_logits_of_an_image_and_its_mirror_image():
    state, batch = state_of(NETWORK), batch_of(3)
    images = read_by_hand(batch["image"])
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    sides = [np.asarray(NETWORK.apply(variables, jnp.asarray(side))) for side in (images, images[:, :, ::-1])]
    logits, labels = np.mean(sides, axis=0, dtype=np.float64), np.asarray(batch["label"])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(BATCH), labels]
    rows = {"image": batch["image"], "label": batch["label"], "valid": jnp.ones(BATCH, bool)}
    step = functools.partial(eval_step, model=NETWORK, inputs=NOTHING.inputs, flip=True)
    sums = jax.jit(step)(state.params, state.batch_stats, rows)
    np.testing.assert_allclose(sums.totals["loss"], losses.sum(), rtol=1e-5)
    assert int(sums.totals["top1"]) == np.sum(logits.argmax(axis=1) == labels)
    assert not np.allclose(sides[0], sides[1], atol=1e-3)


def test_rows_that_are_not_valid_change_nothing():
    batch, valid = batch_of(3), np.arange(BATCH) < 5
    other = batch_of(4)
    filled = {name: jnp.concatenate([batch[name][:5], other[name][5:]]) for name in batch}
    assert_close(evaluate(filled, valid), evaluate(batch, valid), rtol=1e-6)
    none = evaluate(batch, np.zeros(BATCH, bool))
    assert [
        float(total) for total in (none.totals["loss"], none.totals["top1"], none.totals["top5"], none.examples)
    ] == [0, 0, 0, 0]


def test_the_sums_of_single_rows_add_up_to_those_of_the_batch():
    batch = batch_of(3)
    whole = evaluate(batch, np.ones(BATCH, bool))
    rows = [evaluate(batch, np.arange(BATCH) == row) for row in range(BATCH)]
    assert_close(functools.reduce(lambda one, other: one + other, rows), whole, rtol=1e-5)


def test_split_cuts_along_the_first_axis_in_order():
    parts = split((jnp.arange(6), jnp.arange(12).reshape(6, 2)), 3)
    assert [part[0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part[1].tolist() for part in parts] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
