import contextlib
import gc
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.checkpoints import Checkpoints
from resnet_jax.errors import CheckpointError, UserError

# Orbax leaves coroutines behind that nobody awaited where a checkpoint cannot be read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    """They are collected here, and not in another module's test."""
    yield
    gc.collect()


def state_of(step):
    return {"step": jnp.asarray(step), "w": jnp.full((1000,), float(step))}


@pytest.fixture
def opened(tmp_path):
    with contextlib.ExitStack() as stack:

        def open_checkpoints(**options):
            return stack.enter_context(contextlib.closing(Checkpoints(tmp_path / "checkpoints", **options)))

        yield open_checkpoints


def fill(checkpoints, top1):
    for step, value in enumerate(top1, start=1):
        checkpoints.save(step, state_of(step), {"top1": value})
    checkpoints.wait()
    return checkpoints


def test_the_latest_and_the_best_are_kept_though_the_latest_are_the_worst(opened):
    checkpoints = fill(opened(keep_latest=2, keep_best=1), [0.2, 0.9, 0.5, 0.4, 0.3])
    assert checkpoints.steps == [2, 4, 5]


def test_the_newest_is_restored_to_the_bit_and_where_it_was(opened):
    checkpoints = fill(opened(), [0.1, 0.2])
    restored = checkpoints.restore(state_of(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(2))
    assert restored["w"].sharding == state_of(0)["w"].sharding


def test_nothing_saved_restores_nothing(opened):
    assert opened().restore(state_of(0)) is None


def damage(folder):
    for file in folder.rglob("*"):
        if file.is_file() and "ocdbt" in str(file):
            file.write_bytes(file.read_bytes()[:10])


def test_an_unreadable_checkpoint_is_named_set_aside_and_the_one_before_it_used(opened, tmp_path):
    checkpoints = fill(opened(keep_latest=3), [0.1, 0.2, 0.3])
    damage(tmp_path / "checkpoints" / "3")
    said = []
    restored = checkpoints.restore(state_of(0), said.append)
    assert int(restored["step"]) == 2
    assert len(said) == 1 and "step 3 cannot be read" in said[0] and "\n" not in said[0]
    assert checkpoints.steps == [1, 2]
    assert len(list((tmp_path / "unreadable_checkpoints").iterdir())) == 1
    # The run comes to that step again.
    checkpoints.save(3, state_of(3), {"top1": 0.3})
    checkpoints.wait()
    assert int(checkpoints.restore(state_of(0))["step"]) == 3


def test_a_reader_moves_nothing(opened, tmp_path):
    fill(opened(keep_latest=3), [0.1, 0.2])
    damage(tmp_path / "checkpoints" / "2")
    assert int(opened(read_only=True).restore(state_of(0), lambda text: None)["step"]) == 1
    assert (tmp_path / "checkpoints" / "2").exists()


def test_where_no_checkpoint_can_be_read_the_user_is_told_what_to_do(opened, tmp_path):
    checkpoints = fill(opened(), [0.1, 0.2])
    for step in (1, 2):
        damage(tmp_path / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match="another --workdir"):
        checkpoints.restore(state_of(0), lambda text: None)
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_checkpoint_of_another_network_is_not_taken(opened):
    checkpoints = fill(opened(), [0.1])
    with pytest.raises(CheckpointError):
        checkpoints.restore({"step": jnp.asarray(0), "w": jnp.zeros((7,))}, lambda text: None)


def test_a_write_that_the_system_cuts_is_told_in_a_sentence_and_leaves_the_older_checkpoint(opened, tmp_path):
    checkpoints = fill(opened(), [0.1])
    big = {"step": jnp.asarray(2), "w": jnp.asarray(np.random.default_rng(0).normal(size=200_000), jnp.float32)}
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            checkpoints.save(2, big)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    shutil.rmtree(tmp_path / "checkpoints" / "2", ignore_errors=True)
    assert int(opened(read_only=True).restore(state_of(0))["step"]) == 1
