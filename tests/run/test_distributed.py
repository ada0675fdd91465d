"""Several hosts, as processes of this machine that talk through its loopback."""

import json
import os
import pathlib
import re
import signal
import socket
import sys

import pytest

import main as command
from resnet_jax.run.metrics import read_metrics
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 100
RUN = [
    "--config=configs/digits.py",
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(8,16)",
    "--config.model.overrides.stem_width=8",
    "--config.optimizer.learning_rate=0.01",  # rounding stays small
    "--config.parallel.norm_scope=global",
    "--config.parallel.heartbeat_seconds=5",
    "--config.evaluation.batch_size=100",
    f"--config.training.steps={STEPS}",
]


def by_fields(hosts, port):
    """What each host is started with: fields of the config, and nothing in the environment."""
    shared = [f"--config.parallel.coordinator=127.0.0.1:{port}", f"--config.parallel.hosts={hosts}"]
    return [({}, [*shared, f"--config.parallel.host={host}"]) for host in range(hosts)]


def by_slurm(hosts, port):
    """What Slurm tells each task; JAX makes the port of the job's number."""
    shared = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(hosts)}
    tasks = [shared | {"SLURM_PROCID": str(host), "SLURM_LOCALID": str(host)} for host in range(hosts)]
    return [(task, ["--config.parallel.coordinator=auto"]) for task in tasks]


def by_open_mpi(hosts, port):
    """What Open MPI tells each rank; JAX makes the port of the job's number."""
    shared = {"OMPI_MCA_orte_hnp_uri": f"{port * 4096}.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": str(hosts)}
    ranks = [shared | {"OMPI_COMM_WORLD_RANK": str(host), "OMPI_COMM_WORLD_LOCAL_RANK": "0"} for host in range(hosts)]
    return [(rank, ["--config.parallel.coordinator=auto"]) for rank in ranks]


def start(workdir, hosts=1, way=by_fields):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return [
        processes.start([sys.executable, "main.py", *RUN, f"--workdir={workdir}", *arguments], env=environment | told)
        for told, arguments in (way(hosts, port) if hosts > 1 else [({}, [])])
    ]


def end(started):
    """Wait for processes and return the output, errors and exit code of each."""
    return [(*process.communicate(timeout=processes.LIMIT_SECONDS), process.returncode) for process in started]


def wait_until_saved(workdir, started):
    saved = lambda: any(step.name.isdigit() for step in (workdir / "checkpoints").glob("*"))  # noqa: E731
    processes.wait_until(saved, *started)


def check_against(one, workdir):
    """Check that a run measured what the run of one host did, and nothing twice."""
    found = read_metrics(workdir / "metrics.jsonl")
    tests = {record["step"]: record for record in found if record["split"] == "test"}
    expected = {record["step"]: record for record in one if record["split"] == "test"}
    assert tests.keys() == expected.keys()
    assert len({(record["step"], record["split"]) for record in found}) == len(found)
    for step, record in tests.items():
        assert record["examples"] == 359
        assert record["loss"] == pytest.approx(expected[step]["loss"], rel=1e-3)
    assert json.loads((workdir / "summary.json").read_text())["steps"] == STEPS


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The records of one host that was never stopped."""
    workdir = tmp_path_factory.mktemp("hosts") / "one"
    [(_, errors, code)] = end(start(workdir))
    assert code == 0, errors
    return read_metrics(workdir / "metrics.jsonl")


def test_a_host_that_is_killed_is_named_and_the_run_goes_on_with_more_hosts(one, tmp_path):
    started = start(tmp_path / "run", 2, by_open_mpi)
    wait_until_saved(tmp_path / "run", started)
    started[1].kill()
    (_, errors, code), _ = end(started)
    assert code not in (0, 2)
    assert re.search(r"tasks are unhealthy \(stopped sending heartbeats\):\s*1\b", errors), errors
    ended = end(start(tmp_path / "run", 4, by_slurm))
    for _, errors, code in ended:
        assert code == 0, errors
    assert "Resuming at step" in ended[0][0]
    for output, _, _ in ended[1:]:
        assert not [line for line in output.splitlines() if not line.startswith("[Gloo]")]  # a library's own
    check_against(one, tmp_path / "run")


def test_a_request_to_end_at_one_host_ends_all_and_the_run_goes_on_with_fewer(one, tmp_path):
    started = start(tmp_path / "run", 2)
    wait_until_saved(tmp_path / "run", started)
    started[1].send_signal(signal.SIGINT)
    for _, errors, code in end(started):
        assert code == 128 + signal.SIGTERM and "the same command resumes there" in errors, errors
    [(output, errors, code)] = end(start(tmp_path / "run"))
    assert code == 0 and "Resuming at step" in output, errors
    check_against(one, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["coordinator=127.0.0.1", "hosts=2"], "give HOST:PORT"),
        (["coordinator=127.0.0.1:1", "hosts=2", "host=2"], "parallel.host is 2 and parallel.hosts is 2"),
        (["coordinator=auto"], "the hosts can not be joined"),
    ],
)
def test_hosts_that_can_not_be_joined_are_reported_in_one_sentence(fields, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = [f"--config.parallel.{field}" for field in fields]
    assert command.main(["main.py", *RUN, f"--workdir={tmp_path / 'run'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
