"""The same batches, bit for bit, however they are read: from packed JPEGs, by a recipe that has everything drawn."""

import contextlib
import functools
import multiprocessing
import os
import re
import signal

import numpy as np
import pytest

from resnet_jax import setup
from resnet_jax.config import default_config, typed_config
from resnet_jax.data.packing import PackFormat, pack
from resnet_jax.data.pipeline import EvaluationOrder, TrainingOrder
from resnet_jax.data.sources import open_dataset
from resnet_jax.errors import DataError
from tests.data.test_packing import dataset, photos

BATCH, STEPS, RESUMED_AT = 24, 20, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty JPEGs to train on, and five to evaluate."""
    folder = tmp_path_factory.mktemp("packed")
    pack(dataset(photos(), photos(5)), folder, PackFormat(), shard_examples=6)
    return folder


@functools.cache
def recipe():
    config = default_config()
    config.data.image_size = 16
    config.data.eval_size = 24
    config.data.resize = 28
    config.data.size_schedule = ((12, 24),)  # at step 10
    config.augment.policy = "rand_augment"
    config.augment.color_jitter = 0.4
    config.augment.lighting = 0.1
    config.augment.repeats = 2
    config.training.batch_size = BATCH
    return config


def loaders(folder, workers=0, host=0, hosts=1, seed=3):
    """The training and the evaluation loader of one of some hosts."""
    config = recipe().copy_and_resolve_references()
    config.data.workers, config.training.seed = workers, seed
    data = open_dataset("records", str(folder), image_size=16)
    share = range(host * BATCH // hosts, (host + 1) * BATCH // hosts)
    train_order = TrainingOrder(len(data.train), BATCH, seed, share, config.augment.repeats)
    return setup.loaders(typed_config(config), data, train_order, EvaluationOrder(len(data.test), BATCH, share))


def batches(loader, first=0, steps=STEPS):
    with contextlib.closing(loader.batches((step, step + 1) for step in range(first, steps))) as chunks:
        return [{name: values[0] for name, values in chunk.items()} for chunk in chunks]


@pytest.fixture(scope="module")
def expected(folder):
    return batches(loaders(folder)[0])


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("workers", [1, 4])
def test_worker_processes_read_the_batches_of_none(folder, expected, workers):
    assert_same(batches(loaders(folder, workers)[0]), expected)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_batches_of_some_hosts_join_to_those_of_one_also_where_they_went_on_from_another_number(
    folder, expected, hosts
):
    shares = [batches(loaders(folder, host=host, hosts=hosts)[0], RESUMED_AT) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, expected[RESUMED_AT:])


def test_a_host_of_two_with_workers_goes_on_where_one_without_stopped(folder, expected):
    second = [{name: values[BATCH // 2 :] for name, values in batch.items()} for batch in expected[RESUMED_AT:]]
    assert_same(batches(loaders(folder, workers=1, host=1, hosts=2)[0], RESUMED_AT), second)


def test_every_epoch_of_repeated_examples_has_each_as_often_and_images_of_its_size(folder, expected):
    labels = np.concatenate([batch["label"] for batch in expected])
    copies = labels.reshape(STEPS, 2, BATCH // 2)
    np.testing.assert_array_equal(copies[:, 0], copies[:, 1])
    whole = copies[:, 0].ravel()[: 12 * 20].reshape(12, 20)
    assert all(np.bincount(epoch).tolist() == [7, 7, 6] for epoch in whole)
    assert [batch["image"].shape for batch in expected] == 10 * [(BATCH, 16, 16, 3)] + 10 * [(BATCH, 24, 24, 3)]
    different = [
        np.any(batch["image"][: BATCH // 2] != batch["image"][BATCH // 2 :], axis=(1, 2, 3)) for batch in expected
    ]
    assert np.mean(different) > 0.99, "copies are augmented each anew"


def test_another_seed_gives_other_batches(folder, expected):
    other = batches(loaders(folder, seed=4)[0], steps=1)
    assert np.any(other[0]["image"] != expected[0]["image"])


def test_an_evaluation_counts_each_packed_image_once_whatever_the_hosts(folder):
    (whole,) = batches(loaders(folder)[1], steps=1)
    parts = [batches(loaders(folder, host=host, hosts=4)[1], steps=1)[0] for host in range(4)]
    assert_same([{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}], [whole])
    assert whole["valid"].sum() == 5 and whole["label"][:5].tolist() == [0, 1, 2, 0, 1]


def test_a_worker_that_was_killed_is_an_error_that_says_so(folder):
    before = set(multiprocessing.active_children())
    chunks = loaders(folder, workers=2)[0].batches((step, step + 1) for step in range(10_000))
    next(chunks)
    worker = next(iter(set(multiprocessing.active_children()) - before))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"A data worker was killed.*exit code -9.*fewer data.workers"):
        for _ in chunks:
            pass
    assert set(multiprocessing.active_children()) <= before


def test_a_damaged_example_is_named(folder, tmp_path):
    files = photos(5) | {"c/cut.JPEG": photos()["c/0.JPEG"][:300]}
    for workers in (0, 1):
        loader, _ = loaders(folder, workers)
        split = dataset(files).train
        broken = type(loader)(split, TrainingOrder(6, BATCH, 0, range(BATCH), 2), loader.transform, 0, loader.workers)
        with contextlib.closing(broken), pytest.raises(DataError) as caught:
            batches(broken)
        assert re.fullmatch(r"c/cut.JPEG cannot be read: An example of 300 bytes .* or replace it\.", str(caught.value))
