import contextlib
import gc
import resource
import shutil
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import CheckpointError, UserError
from resnet_jax.run.checkpoints import WRITTEN_LAST, Checkpoints

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


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


DAMAGES = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "one bit flipped": flip,
    "removed": lambda file: file.unlink(),
}


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_whatever_file_is_damaged_the_newest_sound_checkpoint_is_used_to_the_bit_and_it_is_said(
    opened, tmp_path, damage
):
    fill(opened(keep_latest=3), [0.1, 0.2, 0.3])
    sound = shutil.copytree(tmp_path / "checkpoints", tmp_path / "sound")
    said, kept = [], []
    for file in files_of(sound / "3"):
        shutil.rmtree(tmp_path / "checkpoints")
        shutil.copytree(sound, tmp_path / "checkpoints")
        damage(tmp_path / "checkpoints" / file.relative_to(sound))
        told = len(said)
        checkpoints = Checkpoints(tmp_path / "checkpoints", note=said.append)
        restored = checkpoints.restore(state_of(0))
        checkpoints.close()
        step = int(restored["step"])
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))
        if step == 3:  # nothing that the run needs is in these
            kept.append(file.name)
            assert len(said) == told
        else:
            assert step == 2 and len(said) == told + 1
            assert "step 3 is damaged" in said[-1] and "\n" not in said[-1]
    assert set(kept) <= WRITTEN_LAST and len(said) > 10
    assert len(list((tmp_path / "unreadable_checkpoints").iterdir())) == len(said)


def test_the_checksums_are_those_of_sha256sum(opened, tmp_path):
    fill(opened(), [0.1])
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "checkpoints" / "1").returncode == 0


def test_a_run_comes_again_to_the_step_of_a_damaged_checkpoint(opened, tmp_path):
    fill(opened(keep_latest=3), [0.1, 0.2])
    flip(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    checkpoints = opened(note=lambda text: None)
    assert checkpoints.steps == [1]
    checkpoints.save(2, state_of(2), {"top1": 0.2})
    checkpoints.wait()
    assert int(checkpoints.restore(state_of(0))["step"]) == 2


def test_a_reader_moves_nothing(opened, tmp_path):
    fill(opened(keep_latest=3), [0.1, 0.2])
    flip(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    said = []
    assert int(opened(read_only=True, note=said.append).restore(state_of(0))["step"]) == 1
    assert len(said) == 1 and (tmp_path / "checkpoints" / "2").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_where_no_checkpoint_can_be_read_the_user_reads_what_to_do(opened, tmp_path, read_only):
    fill(opened(), [0.1, 0.2])
    for step in ("1", "2"):
        flip(tmp_path / "checkpoints" / step / "SHA256SUMS")
    with pytest.raises(CheckpointError, match="another --workdir"):
        opened(read_only=read_only, note=lambda text: None).restore(state_of(0))
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_checkpoint_of_another_network_is_not_taken(opened):
    checkpoints = fill(opened(note=lambda text: None), [0.1])
    with pytest.raises(CheckpointError):
        checkpoints.restore({"step": jnp.asarray(0), "w": jnp.zeros((7,))})


def test_a_write_that_the_system_cuts_is_reported_in_a_sentence_and_leaves_the_older_checkpoint(opened, tmp_path):
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
