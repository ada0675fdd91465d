"""Checkpoints: what is kept, saved and restored, by Orbax."""

import contextlib
import errno
import functools
import os
import re
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from resnet_jax.errors import CheckpointError, DataError
from resnet_jax.printable import printable
from resnet_jax.run.checksums import damage, write_checksums
from resnet_jax.run.files import disk_errors
from resnet_jax.run.stored_arrays import elements, shapes_of, stored_shapes

ITEM = "default"  # Orbax's name of the folder in a checkpoint that holds the state
# Orbax writes these after all others, when the checksums are taken; neither is read.
WRITTEN_LAST = {"_CHECKPOINT_METADATA", "commit_success.txt"}


class Checkpoints:
    """The checkpoints of one run, written while training continues.

    Each has its own folder with the checksums of its files, and appears there whole or not at all. Damaged
    ones are reported, and moved to `unreadable_checkpoints` beside the folder, as the run opens it.

    Args:
      folder: holds one folder a step; made where it is missing.
      keep_latest: how many of the newest are kept.
      keep_best: how many of those with the highest test top-1 are kept besides. Orbax's own `best_fn` with
        `max_to_keep` would delete the newest one when it is not among the best, and with it the run's progress.
      read_only: change nothing, as another process may be writing.
      note: takes a sentence on each checkpoint that is damaged.

    Raises CheckpointError if there are checkpoints, and all of them are damaged.
    """

    def __init__(
        self,
        folder: Path,
        keep_latest: int = 2,
        keep_best: int = 1,
        read_only: bool = False,
        note: Callable[[str], None] = print,
    ):
        self._folder = Path(folder).absolute()
        self._read_only = read_only
        self._note = lambda text: note(printable(text, 1000))
        if not read_only:
            self._set_damaged_aside()
        # A reader needs no manager, which would stumble over a metric that is damaged or being written.
        self._manager: Any = None if read_only else self._managed(keep_latest, keep_best)

    def _managed(self, keep_latest: int, keep_best: int) -> ocp.CheckpointManager:
        ignore_closed_loops()
        best = BestN(get_metric_fn=top1, n=keep_best, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_latest), best]),
            best_fn=top1,
            cleanup_tmp_directories=True,
            create=True,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum_up),
        )
        with storage_errors(self._folder):
            return _Manager(self._folder, options=options, item_handlers=ocp.StandardCheckpointHandler())

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Begin to save the state of `step`, with the metrics that rank it. An earlier save is waited for."""
        with storage_errors(self._folder), jax.transfer_guard("allow"):
            if step not in self._manager.all_steps():
                # Orbax would notice too, and leave tracebacks of its threads behind.
                if shutil.disk_usage(self._folder).free < sum(array.nbytes for array in jax.tree.leaves(state)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def wait(self) -> None:
        """Wait until what was saved is on the disk."""
        with storage_errors(self._folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the last save and give everything back."""
        if self._manager is not None:
            with storage_errors(self._folder):
                self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The steps on the disk, oldest first."""
        return sorted(int(path.name) for path in self._folder.glob("*") if re.fullmatch("[0-9]+", path.name))

    def restore(self, like: Any) -> Any | None:
        """Return the newest state that can be read, laid out as `like`; None where there is no checkpoint at all.

        Newer ones that cannot be read are reported, and moved out of the way of the run, which will write these steps
        again.

        Raises:
          CheckpointError: there are checkpoints, and none of them can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        unreadable = []
        for step in self.steps[::-1]:
            reason = damage(self._folder / str(step), WRITTEN_LAST) if self._read_only else None
            reason = reason or _misfit(self._folder / str(step), abstract)
            if reason is None:
                try:
                    with ocp.StandardCheckpointer() as reader:
                        state = reader.restore(self._folder / str(step) / ITEM, abstract)
                except Exception as error:  # Orbax passes on any exception of its storage layers.
                    reason = first_line(error)
                else:
                    if unreadable and not self._read_only:
                        self._set_aside(unreadable)
                        self._manager.reload()
                    return state
            self._note(f"The checkpoint of step {step} cannot be read ({reason}); trying the one before it.")
            unreadable.append(step)
        if unreadable:
            raise self._none_readable()
        return None

    def _sum_up(self) -> None:
        """List the checksums of the checkpoint that is about to take its place."""
        if jax.process_index() == 0:
            [written] = self._folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*")
            write_checksums(written, WRITTEN_LAST)

    def _set_damaged_aside(self) -> None:
        """Move what is damaged away before Orbax opens the folder, which it can not where a metric is damaged."""
        if jax.process_index() == 0:
            found = self.steps
            reasons = {step: damage(self._folder / str(step), WRITTEN_LAST) for step in found}
            damaged = [step for step in found if reasons[step]]
            for step in damaged:
                self._note(f"The checkpoint of step {step} is damaged ({reasons[step]}): it is not used.")
            if damaged and damaged == found:
                raise self._none_readable()
            self._set_aside(damaged)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")

    def _set_aside(self, steps: list[int]) -> None:
        aside = self._folder.with_name("unreadable_checkpoints")
        if jax.process_index() == 0:
            with disk_errors(aside):
                for step in steps:
                    aside.mkdir(exist_ok=True)
                    (self._folder / str(step)).rename(aside / f"{step}_{time.time_ns()}")

    def _none_readable(self) -> CheckpointError:
        return CheckpointError(
            f"None of the checkpoints in {self._folder} can be read for this run: start in another --workdir, or "
            "delete that folder to start from the first step."
        )


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own question for preemption: the loop asks, and a second asker would confuse it."""

    def reached_preemption(self, step: int) -> bool:
        return False


def check_shapes(folder: Path, like: Any) -> None:
    """Raise CheckpointError if a folder has checkpoints, and the newest belongs to another network than `like`."""
    steps = sorted(int(path.name) for path in folder.glob("*") if re.fullmatch("[0-9]+", path.name))
    if steps:
        _misfit(folder.absolute() / str(steps[-1]), like)


def _misfit(step: Path, like: Any) -> str | None:
    """Return why the metadata of a checkpoint's arrays cannot be read, in a few words, or None; reads no array.

    Raises CheckpointError if parameters or statistics have other names, or any array another shape, than in `like`.
    """
    try:
        saved = stored_shapes(step / ITEM)
    except Exception as error:  # TensorStore passes on any exception of its storage layers.
        return first_line(error)
    wanted = shapes_of(like)
    names = {name for name in saved.keys() ^ wanted.keys() if name.startswith(("params.", "batch_stats."))}
    names |= {name for name in saved.keys() & wanted.keys() if saved[name] != wanted[name]}
    if names:
        name = min(names, key=lambda name: (not name.startswith("params."), name))
        raise CheckpointError(
            f"the checkpoint of step {step.name} in {step.parent} belongs to another network or other data "
            f"({printable(name.replace('.', '/'))} is {saved.get(name, 'missing')} there and "
            f"{wanted.get(name, 'missing')} now; {len(names)} arrays differ): name the network and data with which the "
            "run was started, or choose another --workdir."
        )
    return None


def read_variables(folder: str | Path, average: bool = False, most: int = 2**31) -> dict[str, Any]:
    """Return "params" and "batch_stats" of a run's newest checkpoint as NumPy arrays. Nothing in the folder changes.

    Args:
      folder: of a run, or of one checkpoint, RUN/checkpoints/STEP.
      average: take the moving averages.
      most: values that the arrays of the checkpoint may have together.

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
    if reason := damage(step, WRITTEN_LAST):
        raise CheckpointError(f"the checkpoint {step} is damaged ({reason}): name another one by RUN/checkpoints/STEP.")
    try:
        variables = _variables(step / ITEM, average, most)
    except Exception as error:  # Orbax passes on any exception of its storage layers.
        raise CheckpointError(
            f"the checkpoint {step} cannot be read ({first_line(error)}): name another one by RUN/checkpoints/STEP."
        ) from error
    if variables is None:
        raise CheckpointError(f"{folder} keeps no moving averages: do not ask for them.")
    return variables


def _variables(place: Path, average: bool, most: int) -> dict[str, Any] | None:
    """Return the parameters, as they are evaluated, and the statistics of one checkpoint; None if there is none."""
    if (claimed := elements(stored_shapes(place))) > most:
        raise ValueError(f"its arrays have {claimed:,} values, where {most:,} would be many for the network")
    with quiet(), ocp.PyTreeCheckpointer() as reader:
        state = reader.metadata(place).item_metadata.tree
        kept = state.get("average") if average else state
        if not kept:
            return None
        kept = {kind: kept[kind] for kind in ("params", "batch_stats")}
        wanted = {"average": kept} if average else kept
        evaluated_elsewhere = not average and next(averaging_states(state.get("opt_state")), None) is not None
        if evaluated_elsewhere:
            wanted = kept | {"opt_state": state["opt_state"]}
        read = ocp.args.PyTreeRestore(
            item=jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), wanted),
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        )
        restored = reader.restore(place, args=read)
    if evaluated_elsewhere:
        averages: Any = types.SimpleNamespace(**next(averaging_states(restored.pop("opt_state"))))
        params = optax.contrib.schedule_free_eval_params(averages, restored["params"])
        restored["params"] = jax.tree.map(np.asarray, params)
    return restored["average"] if average else restored


def averaging_states(opt_state: Any) -> Iterator[dict[str, Any]]:
    """Yield the states of schedule-free rules within a stored optimizer's state: their parameters are not evaluated."""
    if isinstance(opt_state, dict) and {"b1", "z", "weight_sum"} <= opt_state.keys():
        yield opt_state
    elif isinstance(opt_state, dict | list | tuple):
        for each in opt_state.values() if isinstance(opt_state, dict) else opt_state:
            yield from averaging_states(each)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into a sentence, also where Orbax's storage raises a ValueError for it."""
    with disk_errors(folder):
        try:
            yield
        except ValueError as error:
            if code := re.search(r"os_error_code='(\d+)'", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
            raise


@functools.cache
def ignore_closed_loops() -> None:
    """Let nothing be printed of what TensorStore still reports to a save that has failed, as on a full disk."""
    before = sys.unraisablehook

    def report(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = report


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
