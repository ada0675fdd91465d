"""Steps that are not finite, and float16."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import runner, setup
from resnet_jax.config import to_dict
from resnet_jax.errors import Diverged, UserError
from resnet_jax.run.metrics import read_metrics
from resnet_jax.training import losses
from resnet_jax.training.loss_scale import FIRST_SCALE, GROWS_AFTER, DynamicLossScale
from resnet_jax.training.losses import cross_entropy
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.steps import train_step

SGD = create_optimizer("sgd", lambda step: jnp.float32(0.1), momentum=0.9)
CLASSES = 5


class Normed(nn.Module):
    """A small network with statistics, in the computation's type."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(8, dtype=self.dtype)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
        return nn.Dense(CLASSES, dtype=self.dtype)(x).astype(jnp.float32)


def read(key, images, labels, positions):
    """Images of 255 are no number."""
    images = images.astype(jnp.float32)
    return jnp.where(images == 255, jnp.nan, images / 255), jax.nn.one_hot(labels, CLASSES)


@functools.cache
def step_of(model, **options):
    return jax.jit(functools.partial(train_step, model=model, optimizer=SGD, augment=read, ema_decay=0.9, **options))


def state_of(model, guard):
    return create_state(model, SGD, jax.random.key(0), (2, 2, 3), keep_average=True, guard=guard)


def batch_of(seed, spoiled=False):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (16, 2, 2, 3), np.uint8)
    images[3, 0, 0, 0] = 255 if spoiled else 0
    labels = rng.integers(0, CLASSES, 16, np.int32)
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels), "position": jnp.arange(16, dtype=jnp.uint32)}


def learned(state):
    return state.params, state.batch_stats, state.opt_state, state.average


def test_a_guarded_run_with_a_spoiled_batch_is_the_run_without_that_batch():
    step, key = step_of(Normed(), skip_nonfinite=1), jax.random.key(1)
    with_it = without_it = state_of(Normed(), DynamicLossScale.create(scaled=False))
    for number, spoiled in enumerate((False, True, False)):
        with_it, means = step(with_it, batch_of(number, spoiled), key)
        assert not means["failed"] and int(means["skipped"]) == int(number > 0)
        assert np.isfinite(means["loss"]) == (not spoiled)
        if not spoiled:
            without_it, _ = step(without_it.replace(step=jnp.int32(number)), batch_of(number), key)
    jax.tree.map(np.testing.assert_array_equal, learned(with_it), learned(without_it))
    assert int(with_it.step) == 3


def test_a_run_fails_at_the_first_spoiled_step_above_the_limit_and_unguarded_at_once():
    step, key = step_of(Normed(), skip_nonfinite=1), jax.random.key(1)
    state = state_of(Normed(), DynamicLossScale.create(scaled=False))
    failed = []
    for spoiled in (True, False, True):
        state, means = step(state, batch_of(0, spoiled), key)
        failed.append(bool(means["failed"]))
    assert failed == [False, False, True]
    assert step_of(Normed())(state_of(Normed(), None), batch_of(0, True), key)[1]["failed"]


def test_the_scale_halves_at_an_overflow_doubles_after_many_good_steps_and_ends_at_one():
    guard = DynamicLossScale.create(scaled=True)
    loss, yes, no = jnp.float32(1), jnp.asarray(True), jnp.asarray(False)
    assert float(guard.after(loss, no).scale) == FIRST_SCALE / 2
    assert int(guard.after(loss, no).skipped) == 0  # an overflow is no fault
    guard = guard.replace(taken=jnp.int32(GROWS_AFTER - 1)).after(loss, yes)
    assert float(guard.scale) == 2 * FIRST_SCALE and int(guard.taken) == 0
    while guard.scale > 1:
        guard = guard.after(loss, no)
    assert int(guard.skipped) == 0
    guard = guard.after(loss, no)
    assert float(guard.scale) == 1 and int(guard.skipped) == 1
    assert int(DynamicLossScale.create(scaled=True).after(jnp.float32(jnp.nan), no).skipped) == 1


def test_a_step_in_float16_is_that_in_float32_within_its_rounding_whatever_the_scale():
    key, batch = jax.random.key(1), batch_of(0)
    expected, _ = step_of(Normed())(state_of(Normed(), None), batch, key)
    half = Normed(dtype=jnp.float16)
    for scale in (1.0, 2.0**10):
        guard = DynamicLossScale.create(scaled=True).replace(scale=jnp.float32(scale))
        state, means = step_of(half)(state_of(half, guard), batch, key)
        assert float(means["loss_scale"]) == scale and state.params["Dense_0"]["kernel"].dtype == jnp.float32
        one, another = (jax.tree.leaves(each.params) for each in (expected, state))
        for a, b in zip(one, another, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


def spoils(logits, targets):
    """A loss that is no number where the first example of a batch is a zero."""
    return cross_entropy(logits, targets) * jnp.where(jnp.argmax(targets[0]) == 0, jnp.nan, 1.0)


def spoiled_steps(config):
    """Which steps those are, from the order of the data."""
    loader = setup.build(config).train_loader
    first = [loader.order.rows(step)["index"][0] for step in range(config.training.steps)]
    return [step + 1 for step, index in enumerate(first) if loader.split.labels[index] == 0]


@pytest.fixture
def spoiled_config(small_config, monkeypatch):
    small_config.training.steps = 30
    monkeypatch.setitem(losses.LOSSES, "cross_entropy", spoils)
    return small_config


def test_a_run_leaves_out_as_many_steps_as_it_may_and_counts_them(spoiled_config, tmp_path):
    spoiled = spoiled_steps(spoiled_config)
    spoiled_config.training.skip_nonfinite = len(spoiled)
    runner.run(spoiled_config, tmp_path / "run", "train")
    train = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if record["split"] == "train"]
    assert len(spoiled) > 1
    for record in train:
        assert record["skipped"] == sum(step <= record["step"] for step in spoiled)
        assert record["loss"] is not None


def test_a_run_that_diverged_takes_that_step_again_and_keeps_what_it_began_with(spoiled_config, tmp_path):
    spoiled = spoiled_steps(spoiled_config)
    with pytest.raises(Diverged, match=f"at step {spoiled[0]} the loss is nan.*--mode=replay"):
        runner.run(spoiled_config, tmp_path / "run", "train")
    result = runner.run(spoiled_config, tmp_path / "run", "replay")
    assert result["step"] == spoiled[0] and np.isnan(result["loss"]) and result["spoiled"] > 0
    assert json.loads((tmp_path / "run" / "replay.json").read_text())["failed"] == 1
    kept = np.load(tmp_path / "run" / "diverged.npz")
    trainer = setup.build(spoiled_config)
    expected = trainer.train_loader.order.rows(spoiled[0] - 1)
    np.testing.assert_array_equal(kept["batch/index"], expected["index"])
    np.testing.assert_array_equal(kept["batch/image"], trainer.train_loader.split.images[expected["index"]])
    assert all(np.isfinite(kept[name]).all() for name in kept.files) and kept["batch/label"][0] == 0


def test_a_run_that_did_not_diverge_has_nothing_to_replay(small_config, tmp_path):
    with runner.contextlib.closing(runner.RunDirectory(tmp_path)) as record:
        record.open_for(to_dict(small_config))
        record.begin(to_dict(small_config))
    with pytest.raises(UserError, match="names no step"):
        runner.run(small_config, tmp_path, "replay")


def test_float16_trains_and_resumes_with_its_scale(small_config, tmp_path):
    small_config.model.dtype = "float16"
    small_config.training.steps = 20
    summary = runner.run(small_config, tmp_path / "run", "train")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    train = [record for record in records if record["split"] == "train"]
    assert train[-1]["loss"] < train[0]["loss"] and train[-1]["skipped"] == 0
    assert train[-1]["loss_scale"] >= 1
    assert runner.run(small_config, tmp_path / "run", "eval")["top1"] == summary["top1"]
