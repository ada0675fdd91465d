"""The record that a run leaves: its config, versions, metrics, summary, and where its checkpoints and curves are."""

import errno
import fcntl
import io
import json
import os
import platform
import socket
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax import __version__
from resnet_jax.errors import ConfigError, InUse, UserError
from resnet_jax.printable import printable
from resnet_jax.run.files import disk_errors, open_own, read_json, write_atomically
from resnet_jax.run.identity import DIFFERENCES_SHOWN, changed, covered, other_data, shown
from resnet_jax.run.metrics import metric_lines, plain

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunDirectory:
    """The folder of one run, in which a run that is started again finds what the earlier start left.

    Args:
        path: The folder; `open_for` creates it.
        writes: Whether this process writes: of several hosts only one may.
        upgrade: What a `config.json`, perhaps of an earlier version, is in this one.
    """

    def __init__(
        self, path: str | os.PathLike, writes: bool = True, upgrade: Callable[[Any], Any] = lambda config: config
    ):
        if "://" in str(path):
            raise ConfigError(
                f"--workdir={path} is an address, not a folder: mount the storage and name the mounted path."
            )
        self.path = Path(path)
        self.writes = writes
        self._upgrade = upgrade
        self._events = None
        self._purge_step = None
        self._lock = None

    @property
    def config(self) -> Path:
        """The config with which the run was started."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """What identifies the data with which the run was started."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: what was measured at which step."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The result of a finished run, with the versions that made it."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def curves(self) -> Path:
        """The picture of loss and accuracy."""
        return self.path / "curves.png"

    def open_for(self, config: dict, may_change: tuple[str, ...] = (), data: dict | None = None) -> None:
        """Takes the folder for a run with `config`, and checks that a run in it has the same config and data.

        Nothing is written but the lock: `begin` does that, when nothing else can refuse the start.

        Args:
            config: Nested dicts of JSON values.
            may_change: Dotted fields, or prefixes of them, that may differ from the earlier start: they change how a
                run is watched or kept, not its result.
            data: What identifies the data, as `data.identity` returns it.

        Raises:
            ConfigError: The folder holds a run with another config or other data, or a damaged config, or is in use.
            UserError: The folder cannot be created or written.
        """
        if not self.writes:
            return
        if self.config.exists():
            self.check(config, may_change, data)
        self.create()
        self._take()
        if self.config.exists():  # another process may have been faster
            self.check(config, may_change, data)

    def begun(self) -> dict | None:
        """The config with which the run was begun; None where there is none that can be read."""
        config = self._upgrade(read_json(self.config))
        return config if isinstance(config, dict) else None

    def begin(self, config: dict, data: dict | None = None) -> None:
        """Writes the config and the identity of the data, of which some may have changed since the last start."""
        self.write_text(self.config.name, json.dumps(config, indent=2, sort_keys=True))
        if data is not None:
            self.write_text(self.data.name, json.dumps(data, indent=2))

    def create(self) -> None:
        """Creates the folder. Raises UserError if that is refused, or if it cannot be written."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def check(self, config: dict, may_change: tuple[str, ...] = (), data: dict | None = None) -> None:
        """Raises ConfigError if the folder holds no run, or one with another config or other data.

        The arguments are `open_for`'s; of `data` what is missing is not compared.
        """
        if not self.config.exists():
            raise ConfigError(f"{self.path} holds no run: name the folder of one by --workdir, or train first.")
        differences = changed(self._read_config(), json.loads(json.dumps(config)))
        self._refuse({field: pair for field, pair in differences.items() if not covered(field, may_change)})
        if data is not None and (found := other_data(self._read_data(), data)):
            raise ConfigError(
                f"{self.path} holds a run on other data ({'; '.join(found)}): name the data of that run by data.path, "
                f"or choose another --workdir, {self._from_here}."
            )

    def log(self, record: dict[str, Any]) -> None:
        """Appends one measurement to `metrics.jsonl` and to TensorBoard's events.

        Args:
            record: At least `step` and `split`; numbers may be NumPy's or JAX's scalars. Those that are not finite
                become null.

        Raises:
            UserError: The disk is full.
        """
        if not self.writes:
            return
        record = plain(record)
        line = json.dumps(record, allow_nan=False) + "\n"
        # Closed after each line: whoever reads the file sees the line, and a full disk is noticed here.
        with disk_errors(self.metrics), self.metrics.open("a") as file:
            file.write(line)
        with disk_errors(self.tensorboard):
            self._mirror(record)

    def rewind(self, step: int) -> None:
        """Drops what was measured after `step`, so that a resumed run leaves the record of one that was never stopped.

        Also drops a last line that was cut when the run was killed.
        """
        if not self.writes:
            return
        if self.metrics.exists():
            kept = [line for line, record in metric_lines(self.metrics) if record["step"] <= step]
            write_atomically(self.metrics, b"".join(line + b"\n" for line in kept))
        self._purge_step = step + 1
        self._close_events()

    def write_summary(self, summary: dict[str, Any], file: str = "summary.json") -> None:
        """Writes `summary` and the versions of what made it."""
        self.write_text(file, json.dumps(plain(summary | {"versions": versions()}), indent=2, allow_nan=False))

    def write_text(self, file: str, text: str) -> None:
        """Writes a text to a file of this folder."""
        if self.writes:
            write_atomically(self.path / file, text.encode() + b"\n")

    def write_arrays(self, file: str, arrays: dict[str, Any]) -> None:
        """Writes arrays by name to a compressed NumPy archive of this folder."""
        if self.writes:
            archive = io.BytesIO()
            np.savez_compressed(archive, **arrays)
            write_atomically(self.path / file, archive.getvalue())

    def diverged_at(self) -> int:
        """The step at which the run diverged. Raises UserError if it has not."""
        file = self.path / "diverged.json"
        found = read_json(file)
        step = found.get("step") if isinstance(found, dict) else None
        if not isinstance(step, int) or step < 1:
            raise UserError(f"{file} names no step: only a run that has diverged while it trained can be replayed.")
        return step

    def close(self) -> None:
        """Closes TensorBoard's event file, and leaves the folder to other processes."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
        self._close_events()

    def _take(self) -> None:
        """Raises InUse if another process trains in this folder, else keeps others out until it is closed.

        The system takes the lock back when the process ends, however it ends.
        """
        with disk_errors(self.path):
            lock = open_own(self.path / ".lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                holder = lock.read(200).decode(errors="replace").strip()
            raise InUse(
                f"{self.path} is in use by {holder or 'another process'}: stop that one, wait until it has ended, or "
                "choose another --workdir."
            ) from None
        except OSError:
            pass  # a file system without locks
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        lock.flush()
        self._lock = lock

    def _close_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with disk_errors(self.tensorboard):
                events.close()

    def _read_config(self) -> dict:
        config = self.begun()
        if config is None:
            raise ConfigError(f"{self.config} is damaged: restore it, or choose another --workdir.")
        return config

    @property
    def _from_here(self) -> str:
        return f"there with --config.training.init_from={self.path} to begin with its weights"

    def _read_data(self) -> dict:
        """What identifies the data of the run; of a run of an older version the classes, which its preset has."""
        for file, fields in ((self.data, ("classes", "train", "test")), (self.path / "preset.json", ("classes",))):
            found = read_json(file)
            if isinstance(found, dict):
                return {name: found[name] for name in fields if isinstance(found.get(name), list | dict)}
        return {}

    def _refuse(self, differences: dict[str, tuple[Any, Any]]) -> None:
        """Raises if there are differences that would make the run in this folder another experiment."""
        if not differences:
            return
        named = [
            f"{field} is {shown(there)} there and {shown(now)} now"
            for field, (there, now) in sorted(differences.items())[:DIFFERENCES_SHOWN]
        ]
        if len(differences) > len(named):
            named.append(f"and {len(differences) - len(named)} more")
        raise ConfigError(
            f"{self.path} holds a run with another config ({'; '.join(named)}): "
            f"leave --config and its fields out to take the run's own, or choose another --workdir, {self._from_here}."
        )

    def _mirror(self, record: dict[str, Any]) -> None:
        """Writes the numbers of `record` to TensorBoard's events.

        tensorboardX's SummaryWriter would write them from a thread, which dies on a full disk and lets the run wait
        for ever on its queue; the writer beneath it writes here and now.
        """
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made at its import)
        from tensorboardX.summary import scalar

        if self._events is None:
            self._events = self._open_events()
        for name, value in record.items():
            if name not in ("step", "epoch") and isinstance(value, int | float):
                summary = scalar(printable(f"{record['split']}/{name}"), value)
                self._events.write_event(Event(step=record["step"], wall_time=time.time(), summary=summary))
        self._events.flush()

    def _open_events(self):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] (likewise)

        self.tensorboard.mkdir(exist_ok=True)
        # The name's own clock counts seconds: a second start within one of them would overwrite the first's events.
        events = EventsWriter(str(self.tensorboard / "events"), f".{time.time_ns()}")
        if self._purge_step is not None:
            # TensorBoard then hides what an earlier start had written from this step on.
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(step=self._purge_step, wall_time=time.time(), session_log=start))
        return events


def versions() -> dict[str, str | None]:
    """The versions that a result depends on; None for a package that is used without being installed."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in _PACKAGES},
        "resnet_jax": __version__,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
