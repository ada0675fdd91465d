"""The log: what a record says of the speed, whoever waits for whom."""

import pathlib
import types
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.run.progress import Progress
from resnet_jax.run.workdir import RunDirectory
from resnet_jax.training import log
from resnet_jax.training.trainer import Trainer


class Late:
    """Metrics that are not there yet when the log gets them, and are fetched at `arrives`."""

    def __init__(self, value, clock, arrives):
        self.value, self.clock, self.arrives = value, clock, arrives

    def is_ready(self):
        return self.clock.now >= self.arrives

    def fetch(self):
        self.clock.now = max(self.clock.now, self.arrives)
        return self.value


@pytest.mark.parametrize("waits", [True, False], ids=["the call waits", "the fetch waits"])
def test_the_speed_of_every_record_is_that_of_its_steps(monkeypatch, waits):
    """A step of 8 images takes 2 s, whether the host waits for it when it asks, as on a GPU, or when it fetches."""
    clock, records = types.SimpleNamespace(now=0.0), []
    monkeypatch.setattr(log.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(log.jax, "block_until_ready", lambda means: [x.fetch() for x in means.values()])
    monkeypatch.setattr(
        log.jax,
        "device_get",
        lambda tree: jax.tree.map(lambda x: x.fetch() if isinstance(x, Late) else x, tree),
    )
    trainer = mock.Mock(
        spec=Trainer, learning_rate=lambda step: 0.1 * jnp.ones(()), log_every=1, batch_size=8, epoch_steps=1.0
    )
    record = mock.Mock(spec=RunDirectory, metrics=pathlib.Path("none"), log=records.append)
    watched = log.Log(trainer, record, mock.Mock(spec=Progress))
    for step in range(1, 5):
        if waits:
            clock.now = 2.0 * step
        means = {"failed": jnp.zeros(1), "loss": jnp.ones(1), "gradient_norm": jnp.ones(1)}
        watched.trained(step - 1, step, {name: Late(value, clock, 2.0 * step) for name, value in means.items()})
    watched.flush(4)
    assert [each["images_per_second"] for each in records] == [None, 4.0, 4.0, 4.0]
