"""Checkpoints: what is kept, saved and restored, by Orbax."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from resnet_jax.errors import CheckpointError, DataError
from resnet_jax.run_directory import disk_errors

ITEM = "default"  # Orbax's name of the folder in a checkpoint that holds the state


class Checkpoints:
    """The checkpoints of one run, written while training goes on.

    Args:
      folder: holds one folder a step; made where it is missing.
      keep_latest: how many of the newest are kept.
      keep_best: how many of those with the highest test top-1 are kept besides. Orbax's own `best_fn` with
        `max_to_keep` would delete the newest one when it is not among the best, and with it the run's progress.
      read_only: change nothing, as another process may be writing.
    """

    def __init__(self, folder: Path, keep_latest: int = 2, keep_best: int = 1, read_only: bool = False):
        self._folder = Path(folder).absolute()
        self._read_only = read_only
        best = BestN(get_metric_fn=top1, n=keep_best, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_latest), best]),
            best_fn=top1,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        with storage_errors(self._folder):
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Begin to save the state of `step`, with the metrics that rank it. An earlier save is waited for."""
        with storage_errors(self._folder), jax.transfer_guard("allow"):
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def wait(self) -> None:
        """Wait until what was saved lies on the disk."""
        with storage_errors(self._folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the last save and give everything back."""
        with storage_errors(self._folder):
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The steps that are kept, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(self, like: Any, note: Callable[[str], None] = print) -> Any | None:
        """Return the newest state that can be read, laid out as `like`; None where there is no checkpoint at all.

        Newer ones that cannot be read are told to `note` in a sentence each, and moved out of the way of the run, which
        will write these steps again.

        Raises:
          CheckpointError: there are checkpoints, and none of them can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        unreadable = []
        for step in self.steps[::-1]:
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # Orbax raises whatever its storage layers raise.
                reason = first_line(error)
                note(f"The checkpoint of step {step} cannot be read ({reason}); trying the one before it.")
                unreadable.append(step)
            else:
                if not self._read_only:
                    self._set_aside(unreadable)
                return state
        if unreadable:
            raise CheckpointError(
                f"None of the checkpoints in {self._folder} can be read for this run: start in another --workdir, or "
                "delete that folder to start from the first step."
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        aside = self._folder.with_name("unreadable_checkpoints")
        with disk_errors(aside):
            for step in steps:
                aside.mkdir(exist_ok=True)
                (self._folder / str(step)).rename(aside / f"{step}_{time.time_ns()}")
        self._manager.reload()


def read_variables(folder: str | Path, average: bool = False) -> dict[str, Any]:
    """Return "params" and "batch_stats" of a run's newest checkpoint as NumPy arrays. Nothing in the folder changes.

    Args:
      folder: of a run, or of one checkpoint, RUN/checkpoints/STEP.
      average: take the moving averages.

    Raises DataError if the folder holds no checkpoint, CheckpointError if it cannot be read or keeps no averages.
    """
    step = Path(folder).absolute()
    if not (step / ITEM).is_dir():
        steps = [path for path in (step / "checkpoints").glob("*") if path.name.isdigit() and (path / ITEM).is_dir()]
        if not steps:
            raise DataError(
                f"there is no weights file {folder}, and as a folder it holds no checkpoint: name a file, or a run."
            )
        step = max(steps, key=lambda path: int(path.name))
    try:
        variables = _variables(step / ITEM, average)
    except Exception as error:  # Orbax raises whatever its storage layers raise.
        raise CheckpointError(
            f"the checkpoint {step} cannot be read ({first_line(error)}): name another one by RUN/checkpoints/STEP."
        ) from error
    if variables is None:
        raise CheckpointError(f"{folder} keeps no moving averages: do not ask for them.")
    return variables


def _variables(place: Path, average: bool) -> dict[str, Any] | None:
    """Return the parameters and statistics of one checkpoint, and read nothing else; None where there are none."""
    with quiet(), ocp.PyTreeCheckpointer() as reader:
        state = reader.metadata(place).item_metadata.tree
        kept = state.get("average") if average else state
        if not kept:
            return None
        kept = {kind: kept[kind] for kind in ("params", "batch_stats")}
        wanted = {"average": kept} if average else kept
        read = ocp.args.PyTreeRestore(
            item=jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), wanted),
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        )
        restored = reader.restore(place, args=read)
    return restored["average"] if average else restored


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into a sentence, also where Orbax's storage tells of it in a ValueError."""
    with disk_errors(folder):
        try:
            yield
        except ValueError as error:
            if code := re.search(r"os_error_code='(\d+)'", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
            raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing through that Orbax logs of its steps."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def top1(metrics: dict[str, float]) -> float:
    """Return what ranks a checkpoint."""
    return metrics["top1"]


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
