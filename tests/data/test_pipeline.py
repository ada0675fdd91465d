import contextlib
import functools
import multiprocessing
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.pipeline import EvaluationOrder, Resident, Streamed, TrainingOrder, first_mirrored, stack
from resnet_jax.data.sources import Arrays
from resnet_jax.run.workers import Workers
from tests import processes

# Two epochs of ten examples, by seed.
PINNED = {
    0: [0, 7, 8, 6, 9, 5, 1, 3, 2, 4, 9, 4, 2, 1, 0, 7, 8, 5, 3, 6],
    1: [6, 0, 7, 9, 4, 1, 8, 5, 2, 3, 2, 7, 3, 0, 9, 1, 4, 6, 8, 5],
}


def training(examples, batch_size, seed=0, share=None):
    return TrainingOrder(examples, batch_size, seed, share or range(0, batch_size))


def stream(order, count):
    """The first `count` example numbers of the endless stream."""
    steps = -(-count // order.batch_size)
    return np.concatenate([order.rows(step)["index"] for step in range(steps)])[:count]


@pytest.mark.parametrize("examples, batch_size", [(12, 4), (10, 4), (97, 16), (5, 12), (3, 10)])
def test_every_epoch_has_each_example_once_also_where_batches_lie_across_epochs(examples, batch_size):
    epochs = stream(training(examples, batch_size), 6 * examples).reshape(6, examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(examples), (6, 1)))


def test_positions_number_the_stream_without_a_gap():
    order = training(10, 4)
    positions = np.concatenate([order.rows(step)["position"] for step in range(7)])
    np.testing.assert_array_equal(positions, np.arange(28))
    assert positions.dtype == np.uint32


def test_a_batch_alone_is_that_of_a_run_from_the_start():
    run = [training(10, 4, seed=3).rows(step) for step in range(20)]
    for step in reversed(range(20)):
        alone = training(10, 4, seed=3).rows(step)
        assert alone.keys() == run[step].keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(values, run[step][name])


@pytest.mark.parametrize("hosts", [2, 3, 4])
@pytest.mark.parametrize(
    "order",
    [
        TrainingOrder(50, 12, 0, range(0, 12)),
        EvaluationOrder(50, 12, range(0, 12)),
        TrainingOrder(50, 12, 0, range(0, 12), 3),
        TrainingOrder(50, 12, 0, range(0, 12), alternates=True),
    ],
)
def test_the_shares_of_all_hosts_join_to_the_batch_of_one(order, hosts):
    fields = {name: value for name, value in vars(order).items() if name != "share"}
    size = 12 // hosts
    parts = [type(order)(**fields, share=range(host * size, (host + 1) * size)) for host in range(hosts)]
    for step in range(5):
        whole = order.rows(step)
        for name, values in whole.items():
            joined = np.concatenate([part.rows(step)[name] for part in parts])
            np.testing.assert_array_equal(joined, values)


def test_the_stream_of_examples_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(stream(training(10, 4), 40), stream(training(10, 7), 40))


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [stream(training(100, 10, seed), 300).reshape(3, 100) for seed in range(3)]
    assert len({tuple(epoch) for order in orders for epoch in order}) == 9
    assert all(tuple(epoch) != tuple(range(100)) for order in orders for epoch in order)


@pytest.mark.parametrize("examples, batch_size, repeats", [(10, 4, 2), (7, 12, 4), (50, 12, 3), (7, 11, 3)])
def test_repeated_examples_follow_themselves_in_the_stream_and_every_pass_has_each_as_often(
    examples, batch_size, repeats
):
    order = TrainingOrder(examples, batch_size, 0, range(batch_size), repeats)
    rows = stack([order.rows(step) for step in range(2 * examples * repeats)])
    by_position = np.argsort(rows["position"].ravel())
    np.testing.assert_array_equal(rows["position"].ravel()[by_position], np.arange(rows["position"].size))
    once = stream(training(examples, batch_size), rows["index"].size // repeats)
    np.testing.assert_array_equal(rows["index"].ravel()[by_position], once.repeat(repeats)[: rows["index"].size])


def test_copies_of_an_example_lie_as_far_apart_in_the_batch_as_they_can():
    rows = TrainingOrder(50, 12, 0, range(12), 3).rows(5)["index"].reshape(3, 4)
    np.testing.assert_array_equal(rows, rows[[0, 0, 0]])
    assert len(set(rows[0])) == 4


def test_the_order_is_the_one_that_earlier_runs_were_trained_in():
    # Whoever changes these numbers changes what a resumed run reads, and every result that a seed stands for.
    assert stream(training(10, 4, seed=0), 20).tolist() == PINNED[0]
    assert stream(training(10, 4, seed=1), 20).tolist() == PINNED[1]


@pytest.mark.parametrize("batch_size", [1, 7, 96])
@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("examples", [1, 95, 96, 97, 200])
def test_an_evaluation_counts_every_example_exactly_once(examples, hosts, batch_size):
    size = batch_size * hosts
    shares = [range(host * batch_size, (host + 1) * batch_size) for host in range(hosts)]
    orders = [EvaluationOrder(examples, size, share) for share in shares]
    assert len({order.steps for order in orders}) == 1
    counted, rows_read = [], 0
    for order in orders:
        for step in range(order.steps):
            rows = order.rows(step)
            assert rows["index"].shape == rows["valid"].shape == (batch_size,)
            assert rows["index"].min() >= 0 and rows["index"].max() < examples
            counted += rows["index"][rows["valid"]].tolist()
            rows_read += batch_size
    assert sorted(counted) == list(range(examples))
    assert rows_read - examples < size, "a step that counts nothing"


def test_an_evaluation_is_in_order():
    order = EvaluationOrder(10, 4, range(0, 4))
    rows = stack([order.rows(step) for step in range(order.steps)])
    assert rows["index"][rows["valid"]].tolist() == list(range(10))
    assert rows["valid"].tolist() == [[True] * 4, [True] * 4, [True, True, False, False]]


def test_orders_and_feeds_can_be_pickled_for_worker_processes():
    for order in (training(10, 4), EvaluationOrder(10, 4, range(1, 3))):
        assert pickle.loads(pickle.dumps(order)) == order


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return Arrays(rng.integers(0, 256, (10, 3, 2, 1), np.uint8), rng.integers(0, 5, 10, np.int32))


@pytest.mark.parametrize("order", [training(10, 4), EvaluationOrder(10, 4, range(0, 4))], ids=["train", "evaluate"])
def test_a_resident_feed_reads_the_rows_images_and_labels_in_a_program(arrays, order):
    loader = Resident(arrays, order)
    (rows,) = loader.batches([(1, 3)])
    program = jax.jit(jax.vmap(loader.read, in_axes=(None, 0)))
    batches = program(jax.tree.map(jnp.asarray, loader.data), jax.tree.map(jnp.asarray, rows))
    for i, step in enumerate((1, 2)):
        expected = order.rows(step)
        np.testing.assert_array_equal(batches["image"][i], arrays.images[expected["index"]])
        np.testing.assert_array_equal(batches["label"][i], arrays.labels[expected["index"]])
        for name in expected.keys() - {"index"}:
            np.testing.assert_array_equal(batches[name][i], expected[name])
    assert batches.keys() == {"image", "label"} | expected.keys() - {"index"}
    assert batches["image"].dtype == np.uint8


def test_an_example_that_alternates_is_mirrored_in_every_other_epoch_and_half_of_them_at_first():
    """airbench mirrors half of the images at first, and all of them once more in every second epoch."""
    order = TrainingOrder(1000, 50, 3, range(50), alternates=True)
    sides = np.zeros((4, 1000), bool)
    for step in range(80):
        rows = order.rows(step)
        sides[rows["position"] // 1000, rows["index"]] = rows["mirrored"]
    assert 400 < sides[0].sum() < 600
    assert np.array_equal(sides[1], ~sides[0]) and np.array_equal(sides[2], sides[0])
    assert not np.array_equal(first_mirrored(1000, 4), sides[0])


def test_a_resident_feed_mirrors_the_images_that_the_order_says(arrays):
    order = TrainingOrder(10, 4, 0, range(4), alternates=True)
    rows = order.rows(1)
    batch = Resident(arrays, order).read(arrays_of(arrays), jax.tree.map(jnp.asarray, rows))
    assert batch.keys() == {"image", "label", "position"}
    for image, index, mirrored in zip(np.asarray(batch["image"]), rows["index"], rows["mirrored"], strict=True):
        np.testing.assert_array_equal(image, arrays.images[index][:, ::-1] if mirrored else arrays.images[index])
    assert 0 < rows["mirrored"].sum() < 4


def arrays_of(arrays):
    return {"image": jnp.asarray(arrays.images), "label": jnp.asarray(arrays.labels)}


def test_a_resident_feed_stacks_the_steps_of_each_cut(arrays):
    chunks = list(Resident(arrays, training(10, 4)).batches([(0, 1), (1, 4)]))
    assert [chunk["index"].shape for chunk in chunks] == [(1, 4), (3, 4)]
    np.testing.assert_array_equal(
        np.concatenate([chunk["index"].ravel() for chunk in chunks]), stream(training(10, 4), 16)
    )


class Numbers:
    """Ten examples: the image of example i is full of i, its label is i mod 3."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return np.full((2, 3, 1), index, np.uint8), index % 3

    def name(self, index):
        return f"number {index}"


def noisy(image, rng, out=None):
    """Ten times the image plus a number below ten that is drawn."""
    return (10 * image + rng.integers(0, 10)).astype(np.uint8)


def streamed(order, workers=0, seed=5):
    return Streamed(Numbers(), order, noisy, seed, Workers(workers) if workers else None)


def read(loader, ranges):
    """The batches of all steps of the ranges."""
    with contextlib.closing(loader.batches(ranges)) as chunks:
        chunks = list(chunks)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture
def nothing_left_behind():
    """Fails a test that leaves worker processes or threads; those of earlier tests are not its own."""

    def running():
        threads = {thread for thread in threading.enumerate() if not thread.daemon}
        return threads | set(multiprocessing.active_children())

    before = running()
    yield
    processes.wait_until(lambda: running() <= before)


@functools.cache
def in_threads(steps=7):
    return read(streamed(training(10, 4)), [(step, step + 1) for step in range(steps)])


def test_a_streamed_batch_holds_the_transformed_examples_of_the_order():
    order, found = training(10, 4), in_threads()
    for step in range(7):
        rows = order.rows(step)
        np.testing.assert_array_equal(found["image"][step, :, 0, 0, 0] // 10, rows["index"])
        np.testing.assert_array_equal(found["label"][step], rows["index"] % 3)
        np.testing.assert_array_equal(found["position"][step], rows["position"])
    assert found["image"].shape == (7, 4, 2, 3, 1)
    assert (found["image"].dtype, found["label"].dtype, found["position"].dtype) == (np.uint8, np.int32, np.uint32)
    assert found.keys() == {"image", "label", "position"}


def test_the_transforms_randomness_is_drawn_from_seed_and_position():
    found = in_threads()
    drawn = (found["image"][:, :, 0, 0, 0] % 10).ravel()
    expected = [np.random.Generator(np.random.Philox(key=[5, position])).integers(0, 10) for position in range(28)]
    np.testing.assert_array_equal(drawn, expected)
    other = read(streamed(training(10, 4), seed=6), [(0, 7)])
    assert np.any(other["image"] != found["image"])


def test_an_example_is_transformed_anew_in_each_epoch():
    found = in_threads()
    images = found["image"][:, :, 0, 0, 0].ravel()[:20]
    assert any(len(set(images[images // 10 == index])) == 2 for index in range(10))


@pytest.mark.parametrize("ranges", [[(0, 7)], [(0, 2), (2, 3), (3, 7)]])
def test_cuts_change_only_how_steps_are_stacked(ranges):
    assert_same(read(streamed(training(10, 4)), ranges), in_threads())


def test_a_stream_resumed_at_a_step_goes_on_as_the_one_that_never_stopped():
    resumed = read(streamed(training(10, 4)), [(3, 5), (5, 7)])
    assert_same(resumed, {name: values[3:] for name, values in in_threads().items()})


def test_the_streams_of_two_hosts_join_to_that_of_one():
    parts = [read(streamed(training(10, 4, share=share)), [(0, 7)]) for share in (range(0, 2), range(2, 4))]
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    assert_same(joined, in_threads())


def test_worker_processes_read_what_threads_read_from_any_step(nothing_left_behind):
    with_worker = read(streamed(training(10, 4), workers=1), [(3, 5), (5, 7)])
    assert_same(with_worker, {name: values[3:] for name, values in in_threads().items()})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_is_closed_early_leaves_nothing_behind(workers, nothing_left_behind):
    chunks = streamed(training(10, 4), workers).batches((step, step + 1) for step in range(1000))
    first = next(chunks)
    chunks.close()
    assert_same({name: values[0] for name, values in first.items()}, {n: v[0] for n, v in in_threads().items()})
    with pytest.raises(StopIteration):
        next(chunks)


def test_a_stream_that_is_never_read_or_has_no_cuts_starts_nothing(nothing_left_behind):
    streamed(training(10, 4), workers=1).batches([(0, 1)]).close()
    assert list(streamed(training(10, 4), workers=1).batches([])) == []


def test_a_streamed_evaluation_counts_every_example_once(nothing_left_behind):
    order = EvaluationOrder(10, 4, range(0, 4))
    found = read(streamed(order), [(0, order.steps)])
    valid = found["valid"].ravel()
    assert (found["image"][..., 0, 0, 0].ravel()[valid] // 10).tolist() == list(range(10))
    assert found["label"].ravel()[valid].tolist() == [index % 3 for index in range(10)]
    assert found.keys() == {"image", "label", "valid"}


def test_an_evaluation_is_transformed_alike_each_time():
    order = EvaluationOrder(10, 4, range(0, 4))
    assert_same(read(streamed(order), [(0, order.steps)]), read(streamed(order), [(0, order.steps)]))


@pytest.mark.parametrize("rows, workers", [(64, 0), (65, 0), (129, 0), (200, 0), (129, 1)])
def test_batches_of_several_parts_are_joined_in_order(rows, workers, nothing_left_behind):
    order = training(10, rows)
    found = read(streamed(order, workers), [(2, 4), (4, 5)])
    for step in range(3):
        expected = order.rows(2 + step)
        np.testing.assert_array_equal(found["image"][step, :, 0, 0, 0] // 10, expected["index"])
        np.testing.assert_array_equal(found["position"][step], expected["position"])


def test_a_later_transform_takes_over_at_its_step():
    later = ((3, lambda image, rng, out: image[:1]), (5, lambda image, rng, out: image[:, :1]))
    loader = Streamed(Numbers(), training(10, 4), noisy, 0, None, later)
    for first in (0, 4):
        with contextlib.closing(loader.batches((step, step + 1) for step in range(first, 7))) as chunks:
            shapes = [chunk["image"].shape[2:4] for chunk in chunks]
        assert shapes == [(2, 3), (2, 3), (2, 3), (1, 3), (1, 3), (2, 1), (2, 1)][first:]


def broken(image, rng, out=None):
    raise ValueError("this image is damaged")


def test_an_error_of_the_transform_reaches_the_reader(nothing_left_behind):
    loader = Streamed(Numbers(), training(10, 4), broken, 0)
    with pytest.raises(ValueError, match="this image is damaged"):
        read(loader, [(0, 1)])


def test_a_streamed_batch_is_read_as_it_is():
    row = {"image": jnp.zeros((2, 2, 2, 1), jnp.uint8), "label": jnp.zeros(2, jnp.int32)}
    assert Streamed.read({}, row) is row
    assert streamed(training(10, 4)).data == {}
