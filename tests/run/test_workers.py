import contextlib
import os
import pathlib
import signal

import numpy as np
import pytest

from resnet_jax.run.workers import WorkerKilled, Workers
from tests import processes


def doubled(number):
    return {"number": number, "array": np.full((3, number), 2 * number, np.int32)[:, ::1]}


def failing(number):
    if number == 5:
        raise ValueError("five")
    return number


def deadly(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Shelf:
    """A function that holds an array."""

    def __init__(self):
        self.array = np.arange(100_000)

    def __call__(self, number):
        return int(self.array[number]), os.getpid()


@pytest.fixture
def pool():
    with contextlib.closing(Workers(3)) as pool:
        yield pool


def test_results_come_in_the_order_of_the_items(pool):
    for number, result in enumerate(pool.map(doubled, range(40))):
        assert result["number"] == number and result["array"].dtype == np.int32
        np.testing.assert_array_equal(result["array"], np.full((3, number), 2 * number))
    assert number == 39


def test_several_maps_share_the_processes_and_one_that_is_dropped_leaves_nothing(pool):
    shelf = Shelf()
    endless = pool.map(shelf, (number % 100 for number in range(10**9)))
    assert [next(endless)[0] for _ in range(10)] == list(range(10))
    short = list(pool.map(shelf, range(99_990, 100_000)))
    assert [value for value, _ in short] == list(range(99_990, 100_000))
    assert next(endless)[0] == 10
    endless.close()
    again = list(pool.map(shelf, range(20)))
    assert [value for value, _ in again] == list(range(20))
    ids = {process for _, process in short}
    assert len(ids) == 3 and ids == {process for _, process in again}


def test_an_error_of_the_function_is_raised_and_the_pool_serves_on(pool):
    results = pool.map(failing, range(10))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert list(pool.map(failing, range(4))) == [0, 1, 2, 3]


def test_a_worker_that_was_killed_is_an_error_with_its_exit_code_and_the_pool_starts_again(pool):
    with processes.no_more_children(), pytest.raises(WorkerKilled, match="exit code -9"):
        list(pool.map(deadly, range(10)))
    assert list(pool.map(deadly, range(4))) == [0, 1, 2, 3]


def test_workers_ignore_what_a_terminal_or_a_scheduler_sends_to_the_group(pool):
    results = pool.map(doubled, range(40))
    next(results)
    for _, process in pool.map(Shelf(), range(3)):
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGTERM)
    assert [result["number"] for result in results] == list(range(1, 40))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_results_lie_in_memory_without_a_name(pool):
    count = lambda: pathlib.Path("/proc/self/maps").read_text().count("/memfd:resnet_jax (deleted)")  # noqa: E731
    before = count()
    kept = [result["array"] for result in pool.map(doubled, range(1000, 1040))]
    assert count() - before == len(kept)
    assert "/dev/shm/psm" not in pathlib.Path("/proc/self/maps").read_text()
