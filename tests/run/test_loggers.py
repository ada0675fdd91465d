"""Loggers: their records, their ids, and that none of them ends or stalls a run."""

import json
import subprocess
import sys
import threading
import types

import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.run import loggers
from resnet_jax.run.loggers import Background, Loggers, create_loggers, run_id

RECORD = {"step": 3, "epoch": 0.5, "split": "test", "loss": 0.25, "top1": 0.5, "gap": None}
CONFIG = {"logging": {"project": "birds"}, "training": {"seed": 1}}


class Kept:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.calls = []

    def start(self, config, workdir):
        self.calls.append(("start", config, workdir))

    def log(self, record):
        self.calls.append(("log", record))

    def finish(self):
        self.calls.append(("finish",))


def background(logger, tmp_path):
    lines = []
    return Background("kept", logger, CONFIG, tmp_path, lines.append), lines


def test_a_logger_gets_all_records_in_order_and_then_finishes(tmp_path):
    logger = Kept()
    running, lines = background(logger, tmp_path)
    for step in range(50):
        running.log({"step": step})
    running.close(600)
    assert logger.calls == [("start", CONFIG, tmp_path), *(("log", {"step": step}) for step in range(50)), ("finish",)]
    assert not lines


@pytest.mark.parametrize("error", [RuntimeError("no route"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_what_a_logger_raises_is_reported_once_and_the_run_continues(tmp_path, method, error):
    logger = Kept()

    def fails(*arguments):
        raise error

    setattr(logger, method, fails)
    running, lines = background(logger, tmp_path)
    for step in range(3):
        running.log({"step": step})
    running.close(600)
    missed = method != "finish"
    assert len(lines) == 1 + missed
    assert lines[0].startswith(f"The logger 'kept' fails: {type(error).__name__}") and "test_loggers.py" in lines[0]
    assert not missed or "has missed 3 records; metrics.jsonl has all" in lines[1]


def test_a_logger_that_blocks_holds_no_record_back_and_what_is_dropped_is_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "MOST_WAITING", 5)
    release, logger = threading.Event(), Kept()
    logger.start = lambda config, workdir: release.wait()
    running, lines = background(logger, tmp_path)
    for step in range(20):  # returns at once each time, or the test would never end
        running.log({"step": step})
    running.close(0)
    release.set()
    assert lines == [
        "The logger 'kept' has not finished and is left behind.",
        "The logger 'kept' has missed 20 records; metrics.jsonl has all.",
    ]


def test_a_process_ends_although_a_logger_never_returns(tmp_path):
    script = (
        "import pathlib, threading\n"
        "from resnet_jax.run.loggers import Background\n"
        "class Stuck:\n"
        "    def start(self, config, workdir): threading.Event().wait()\n"
        "    def log(self, record): pass\n"
        "    def finish(self): pass\n"
        "running = Background('stuck', Stuck(), {}, pathlib.Path('.'))\n"
        "running.close(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=600, capture_output=True, text=True)
    assert done.returncode == 0 and "is left behind" in done.stderr


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"needs the package wandb.*pip install 'resnet-flax\[wandb\]'"):
        create_loggers(("wandb",))


def test_no_service_is_imported_unless_it_is_named():
    script = "import sys, resnet_jax.runner; print(sorted({'wandb', 'mlflow', 'trackio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], timeout=600, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_id_is_drawn_once_and_kept_in_the_runs_folder(tmp_path):
    first = run_id(tmp_path, "wandb")
    assert run_id(tmp_path, "mlflow", "abc") == "abc"
    assert (run_id(tmp_path, "wandb"), run_id(tmp_path, "mlflow")) == (first, "abc")
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": first, "mlflow": "abc"}


def test_ids_that_are_drawn_at_the_same_time_are_all_kept(tmp_path):
    threads = [threading.Thread(target=run_id, args=(tmp_path, f"service{n}", str(n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = json.loads((tmp_path / "loggers.json").read_text())
    assert kept == {f"service{number}": str(number) for number in range(16)}


def service(monkeypatch, name, **functions):
    """Stand in for the package of a service, which is not installed where the tests run."""
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**functions))


def twice(name, tmp_path):
    """Two starts of one run."""
    for _ in range(2):
        running = Loggers(create_loggers((name,)))
        running.start(CONFIG, tmp_path)
        running.log(RECORD)
        running.close()


def test_wandb_resumes_the_run_by_its_id(tmp_path, monkeypatch):
    calls = []

    def init(**arguments):
        calls.append(arguments)
        log = types.SimpleNamespace(log=calls.append, finish=lambda: None, define_metric=lambda *a, **k: None)
        return log

    service(monkeypatch, "wandb", init=init)
    twice("wandb", tmp_path)
    first, record, second, _ = calls
    assert first == second and first["project"] == "birds" and first["resume"] == "allow" and first["config"] == CONFIG
    assert record == {"step": 3, "epoch": 0.5, "test/loss": 0.25, "test/top1": 0.5}


def test_trackio_resumes_the_run_by_its_name(tmp_path, monkeypatch):
    starts, logged = [], []

    def init(**arguments):
        starts.append(arguments)
        return types.SimpleNamespace(log=lambda *a, **k: logged.append((a, k)), finish=lambda: None)

    service(monkeypatch, "trackio", init=init)
    twice("trackio", tmp_path)
    assert starts[0] == starts[1] and starts[0]["resume"] == "allow" and starts[0]["project"] == "birds"
    assert logged == [(({"test/loss": 0.25, "test/top1": 0.5},), {"step": 3})] * 2


def test_mlflow_resumes_the_run_by_its_id(tmp_path, monkeypatch):
    calls = []

    class Client:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "7"

        def create_run(self, experiment, run_name):
            calls.append(("create", experiment))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        def update_run(self, run, status):
            calls.append(("update", run, status))

        def log_batch(self, run, metrics=(), params=()):
            calls.append(("log", run, sorted((each[0], each[1]) for each in (*metrics, *params))))

        def set_terminated(self, run):
            calls.append(("end", run))

    entities = types.SimpleNamespace(Metric=lambda *fields: fields, Param=lambda *fields: fields)
    service(monkeypatch, "mlflow", MlflowClient=Client, entities=entities)
    twice("mlflow", tmp_path)
    params = ("log", "abc", [("logging.project", "birds"), ("training.seed", "1")])
    metrics = ("log", "abc", [("test/loss", 0.25), ("test/top1", 0.5)])
    first = [("experiment", "birds"), ("create", "7"), params, metrics, ("end", "abc")]
    assert calls == [*first, ("update", "abc", "RUNNING"), metrics, ("end", "abc")]
