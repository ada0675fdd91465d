"""Update rules that need more than a gradient, in the train step and in a run."""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import create_model, load_weights, runner
from resnet_jax.data.augment import Augment
from resnet_jax.data.sources import open_dataset
from resnet_jax.run.checkpoints import Checkpoints, read_variables
from resnet_jax.run.files import read_json
from resnet_jax.run.interrupts import Interrupted
from resnet_jax.training import metrics
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.state import create_state
from resnet_jax.training.steps import train_step


class Small(nn.Module):
    """A convolution, BatchNorm and a head, of Flax alone."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(
            nn.Conv(4, (3, 3), name="conv")(images)
        )
        return nn.Dense(3, name="head")(nn.relu(x).mean(axis=(1, 2)))


def test_sam_in_a_step_takes_the_second_gradient_uphill_and_keeps_the_first_statistics():
    model, rho, rate = Small(), 0.5, 0.25
    optimizer = create_optimizer("sam", lambda step: rate, momentum=0.0, arguments={"rho": rho})
    state = create_state(model, optimizer, jax.random.key(0), (8, 8, 1))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 8, 8, 1), np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32)
    augment = Augment(mean=(0.5,), std=(0.25,), num_classes=3)
    batch = {"image": images, "label": labels, "position": np.arange(6, dtype=np.uint32)}
    step = functools.partial(train_step, model=model, optimizer=optimizer, augment=augment)
    new, _ = jax.jit(step)(state, batch, jax.random.key(1))

    x = jnp.asarray((images / 255 - 0.5) / 0.25, jnp.float32)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels]), updates["batch_stats"]

    gradient, statistics = jax.grad(loss, has_aux=True)(state.params)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    uphill = jax.tree.map(lambda w, g: w + rho * g / norm, state.params, gradient)
    second, _ = jax.grad(loss, has_aux=True)(uphill)
    expected = jax.tree.map(lambda w, g: w - rate * g, state.params, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), new.batch_stats, statistics)
    first = jax.tree.map(lambda w, g: w - rate * g, state.params, gradient)
    assert not np.allclose(first["head"]["kernel"], new.params["head"]["kernel"], atol=1e-4)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_schedule_free_run_is_evaluated_and_read_at_its_averages(small_config, tmp_path, clip_norm):
    config = small_config
    config.training.epochs = 1.0
    config.optimizer.name, config.schedule.name = "schedule_free", "constant"
    config.optimizer.clip_norm = clip_norm
    runner.run(config, str(tmp_path / "run"), "train")
    dataset = open_dataset("digits", image_size=8)
    fields = {name: value for name, value in config.model.overrides.items() if value is not None}
    model = create_model("cifar_resnet8", num_classes=10, **fields)
    images = jnp.asarray((dataset.test.images / 255 - dataset.mean) / dataset.std, jnp.float32)
    logits = model.apply(load_weights(model, tmp_path / "run"), images, train=False)
    losses = -jax.nn.log_softmax(logits)[jnp.arange(len(images)), dataset.test.labels]
    assert read_json(tmp_path / "run" / "summary.json")["loss"] == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["schedule_free", "sam", "muon", "optax.adabelief"])
def test_a_run_of_these_rules_resumes_to_the_bit(small_config, tmp_path, name, monkeypatch):
    config = small_config
    config.training.epochs, config.training.steps = 2.0, 30
    config.optimizer.name, config.schedule.name = name, "constant"
    config.optimizer.learning_rate, config.optimizer.weight_decay = 0.01, 0.0
    runner.run(config, str(tmp_path / "whole"), "train")
    saved, save = [], Checkpoints.save

    def save_and_stop(self, step, *arguments):
        save(self, step, *arguments)
        saved.append(step)
        if len(saved) == 1:
            self.wait()
            raise Interrupted("stopped", 15)

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with contextlib.suppress(Interrupted):
        runner.run(config, str(tmp_path / "halved"), "train")
    assert saved == [15]
    runner.run(config, str(tmp_path / "halved"), "train")
    whole, halved = (read_variables(tmp_path / folder) for folder in ("whole", "halved"))
    jax.tree.map(np.testing.assert_array_equal, whole, halved)


def test_a_metric_of_whole_numbers_is_counted_to_the_unit_and_not_where_rows_are_not_valid():
    logits, labels = jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0])
    valid = jnp.array([True, True, True, False])
    many = {"huge": lambda logits, labels, losses, valid: jnp.array([2**24, 1, 0, 7])}
    sums = metrics.count(logits, labels, jnp.full(4, jnp.nan), valid, many)
    assert sums.totals["huge"].dtype == jnp.int32 and int(sums.totals["huge"]) == 2**24 + 1
