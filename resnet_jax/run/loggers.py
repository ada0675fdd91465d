"""Loggers: services and the user's own code that get the records of a run besides metrics.jsonl and TensorBoard.

A logger is three methods: `start(config, workdir)`, `log(record)` and `finish()`. Each runs in a thread of its own
behind a queue, on the host that writes: an exception in it does not end the run, and the run does not wait for it.
"""

import importlib
import json
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from resnet_jax.errors import ConfigError
from resnet_jax.lookup import Own, check_call, described, lookup
from resnet_jax.run.files import read_json, write_atomically
from resnet_jax.run.identity import flattened
from resnet_jax.run.metrics import plain

MOST_WAITING = 1000  # records of a logger that is slower than the run; further ones are dropped
SECONDS_TO_FINISH = 10  # that a run waits at its end for what its loggers still hold
IDS_FILE = "loggers.json"  # of the run's folder: under which id each service keeps the run
IDS_LOCK = threading.Lock()  # each logger has a thread of its own
MOST_PARAMS = 100  # that MLflow takes at once


@runtime_checkable
class Logger(Protocol):
    """What gets the records of a run."""

    def start(self, config: dict[str, Any], workdir: Path) -> None:
        """Begin, or begin again where the run is resumed; `config` is what config.json holds."""
        ...

    def log(self, record: dict[str, Any]) -> None:
        """Take one record, as a line of metrics.jsonl has it."""
        ...

    def finish(self) -> None:
        """End: the run is done or was stopped."""
        ...


class Wandb:
    """Weights & Biases. Its own variables, such as WANDB_API_KEY and WANDB_MODE=offline, apply."""

    def __init__(self):
        self._wandb = package("wandb")

    def start(self, config: dict[str, Any], workdir: Path) -> None:
        """Begin a run, or resume that of the folder."""
        how = dict(id=run_id(workdir, "wandb"), resume="allow", dir=str(workdir), name=workdir.name)
        self._run = self._wandb.init(project=config["logging"]["project"], config=config, **how)
        self._run.define_metric("*", step_metric="step")

    def log(self, record: dict[str, Any]) -> None:
        """Log a record under names such as "test/top1"."""
        self._run.log(named_by_split(record) | {"step": record["step"], "epoch": record["epoch"]})

    def finish(self) -> None:
        """Send what there is."""
        self._run.finish()


class Mlflow:
    """MLflow. Its own variables, such as MLFLOW_TRACKING_URI, apply."""

    def __init__(self):
        self._mlflow = package("mlflow")

    def start(self, config: dict[str, Any], workdir: Path) -> None:
        """Create a run, or resume that of the folder."""
        self._client, project = self._mlflow.MlflowClient(), config["logging"]["project"]
        known = stored_ids(workdir).get("mlflow")
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(project)
        self._id = run_id(workdir, "mlflow", self._client.create_run(number, run_name=workdir.name).info.run_id)
        params = [self._mlflow.entities.Param(name, str(value)[:500]) for name, value in flattened(config).items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS])

    def log(self, record: dict[str, Any]) -> None:
        """Log a record under names such as "test/top1"."""
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(name, value, now, record["step"])
            for name, value in named_by_split(record).items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class Trackio:
    """Trackio, which keeps runs in a folder of this machine, or in a Space of the Hugging Face Hub."""

    def __init__(self):
        self._trackio = package("trackio")

    def start(self, config: dict[str, Any], workdir: Path) -> None:
        """Begin a run, or resume that of the folder."""
        name = f"{workdir.name}-{run_id(workdir, 'trackio')}"
        self._run = self._trackio.init(
            project=config["logging"]["project"], name=name, resume="allow", config=flattened(config)
        )

    def log(self, record: dict[str, Any]) -> None:
        """Log a record under names such as "test/top1"."""
        self._run.log(named_by_split(record), step=record["step"])

    def finish(self) -> None:
        """Write what there is."""
        self._run.finish()


LOGGERS = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def package(name: str) -> Any:
    """Return a package of an extra. Raises ConfigError, with the extra, if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the logger {name!r} needs the package {name} ({error}): install it by pip install 'resnet-flax[{name}]', "
            "or leave it out of logging.loggers."
        ) from error


def run_id(workdir: Path, name: str, created: str | None = None) -> str:
    """Return the id under which a service keeps the run of a folder: the stored one, or a new one that is stored."""
    with IDS_LOCK:
        ids = stored_ids(workdir)
        if name not in ids:
            ids[name] = created or uuid.uuid4().hex[:8]
            write_atomically(workdir / IDS_FILE, json.dumps(ids, indent=2).encode() + b"\n")
        return ids[name]


def stored_ids(workdir: Path) -> dict[str, str]:
    """Return the ids that a run's folder keeps, by the name of the service."""
    found = read_json(workdir / IDS_FILE)
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def named_by_split(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record under names such as "test/top1"."""
    return {
        f"{record['split']}/{name}": value
        for name, value in record.items()
        if name not in ("step", "epoch", "split") and value is not None
    }


def create_loggers(names: Iterable[str]) -> dict[str, Logger]:
    """Return the loggers of some names: those of `LOGGERS`, and classes of the user's as "module:name".

    Raises ConfigError for an unknown name, a package that is missing, or a class without the three methods.
    """
    loggers = {}
    for name in names:
        made = lookup("logger", name, LOGGERS)
        logger = Own("logger", name, made)() if isinstance(made, type) else made
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"the logger {name!r} must have the methods start(config, workdir), log(record), finish()."
            )
        check_call("logger", f"{name}.start", logger.start, ("config", "workdir"))
        check_call("logger", f"{name}.log", logger.log, ("record",))
        check_call("logger", f"{name}.finish", logger.finish, ())
        loggers[name] = logger
    return loggers


class Background:
    """A logger in a thread of its own.

    Args:
      name: of the logger.
      logger: what gets the records.
      config: of the run.
      workdir: the folder of the run.
      report: shows a line of text to the user.
    """

    def __init__(
        self,
        name: str,
        logger: Logger,
        config: dict[str, Any],
        workdir: Path,
        report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        self._name, self._logger, self._report = name, logger, report
        self._records = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._dropped = 0
        self._error = None
        # A daemon: a logger that blocks for ever does not keep the process.
        self._thread = threading.Thread(target=self._serve, args=(config, workdir), daemon=True)
        self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        """Hand over a record, or drop it where too many wait."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def request_close(self) -> None:
        """Let the logger finish when it has taken what waits."""
        self._closing.set()

    def close(self, seconds: float = SECONDS_TO_FINISH) -> None:
        """Let the logger finish for so many seconds at most, and report once what it did not take."""
        self.request_close()
        self._thread.join(seconds)
        waiting = self._records.qsize()
        if self._thread.is_alive():
            self._report(f"The logger {self._name!r} has not finished and is left behind.")
        if self._dropped or waiting:
            self._report(
                f"The logger {self._name!r} has missed {self._dropped + waiting} records; metrics.jsonl has all."
            )

    def _serve(self, config: dict[str, Any], workdir: Path) -> None:
        started = self._attempt(self._logger.start, config, workdir)
        while not (self._closing.is_set() and self._records.empty()):
            try:
                record = self._records.get(timeout=0.1)
            except queue.Empty:
                continue
            if not (started and self._attempt(self._logger.log, record)):
                self._dropped += 1
        if started:
            self._attempt(self._logger.finish)

    def _attempt(self, method: Callable[..., Any], *arguments: Any) -> bool:
        """Call a method of the logger; the first exception is reported."""
        try:
            method(*arguments)
            return True
        except BaseException as error:  # A logger may even call sys.exit, which must not end its thread silently.
            if self._error is None:
                self._error = error
                self._report(f"The logger {self._name!r} fails: {described(error)}. The run continues.")
            return False


class Loggers:
    """All loggers of a run; none where this process does not write."""

    def __init__(self, loggers: dict[str, Logger]):
        self._loggers = loggers
        self._running = []

    def start(self, config: dict[str, Any], workdir: Path) -> None:
        """Start each logger in its thread."""
        self._running = [Background(name, logger, config, workdir) for name, logger in self._loggers.items()]

    def log(self, record: dict[str, Any]) -> None:
        """Hand a record to each."""
        for running in self._running:
            running.log(plain(record))

    def close(self) -> None:
        """Let all finish, in `SECONDS_TO_FINISH` together."""
        deadline = time.monotonic() + SECONDS_TO_FINISH
        for running in self._running:
            running.request_close()
        for running in self._running:
            running.close(max(0.0, deadline - time.monotonic()))
