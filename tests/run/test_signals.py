"""Signals to real processes, process groups and terminals; `benchmarks/signals.py` stops two hundred of them."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import signals
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import sys, time
from resnet_jax.run import interrupts
interrupts.watch()
with interrupts.Interrupts() as asked:
    asked.hold()
    print("held", flush=True)
    while not asked.requested:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(600)
"""
WORKERS = """
import time
if __name__ == "__main__":
    from resnet_jax.run import interrupts
    interrupts.watch()
    from resnet_jax.run.workers import Workers
    pool = Workers(2)
    results = pool.map(abs, range(-100, 0))
    print(next(results), flush=True)
    time.sleep(600)
"""


PRINTS = """
import os, sys, threading
from resnet_jax.run import interrupts
os.dup2(1, 2)  # as a terminal shows both
interrupts.watch()
def write(stream):
    while True:
        print("more", file=stream, flush=True)
print("begun", flush=True)
for stream in (sys.stdout, sys.stderr) * 4:
    threading.Thread(target=write, args=(stream,), daemon=True).start()
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures to train on, and a cache of compiled programs."""
    folder = tmp_path_factory.mktemp("signals")
    signals.prepare(folder)
    return folder


@pytest.fixture
def script(tmp_path):
    """A function that starts some code."""

    def start(code):
        (tmp_path / "script.py").write_text(code)
        return processes.start([sys.executable, tmp_path / "script.py"], env=os.environ | {"PYTHONPATH": str(ROOT)})

    return start


def session(leader):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("phase", "number", "receiver", "workers"),
    [
        ("start", signal.SIGINT, "terminal", 0),
        ("worker start", signal.SIGTERM, "group", 4),
        ("compilation", signal.SIGINT, "process", 0),
        ("training", signal.SIGTERM, "group", 1),
        ("waiting for data", signal.SIGINT, "terminal", 4),
        ("evaluation", signal.SIGTERM, "group", 1),
        ("save", signal.SIGINT, "group", 1),
    ],
)
def test_a_signal_in_any_phase_saves_and_ends_with_a_sentence_and_leaves_nothing(
    folder, phase, number, receiver, workers
):
    draw = random.Random(0)
    for _ in range(5):  # a run may be over before the signal comes
        seen, wrong = signals.stop_run(folder, (phase, number, receiver, workers), draw)
        assert not wrong
        if seen != "end":
            return
    pytest.fail(f"the run was never stopped while in {phase}")


@pytest.mark.parametrize(("number", "receiver"), [(signal.SIGINT, "terminal"), (signal.SIGTERM, "group")])
def test_pack_is_stopped_with_its_workers_and_goes_on(folder, number, receiver, tmp_path):
    arguments = [str(folder / "slow"), str(tmp_path / "packed"), "--shard-examples=2", "--workers=2"]
    arguments = [sys.executable, "-m", "resnet_jax", "pack", *arguments]
    environment = signals.environment(folder / "cache")
    command = signals.Command(arguments, environment, receiver == "terminal")
    code, wrong = signals.stop(command, lambda: any(tmp_path.glob("packed/*.array_record")), number, receiver)
    assert code == 128 + number and not wrong
    assert subprocess.run(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert not (tmp_path / "packed" / ".unfinished").exists()


@pytest.mark.parametrize("verb", ["predict", "analyze"])
def test_other_commands_end_at_once_with_a_sentence(folder, verb, tmp_path):
    arguments = {
        "predict": [str(folder / "slow" / "val"), "--weights=cifar_resnet20.akamaster"],
        "analyze": ["deletion", "nowhere", f"--out={tmp_path / 'deletion.json'}"],
    }[verb]
    command = signals.Command(
        [sys.executable, "-m", "resnet_jax", verb, *arguments], signals.environment(folder / "cache")
    )
    code, wrong = signals.stop(command, lambda: command.watches, signal.SIGTERM, "group")
    assert code == 128 + signal.SIGTERM and not wrong


def test_nothing_is_printed_after_the_sentence(tmp_path, script):
    """A progress bar has a thread of its own, which the end of the process does not wait for."""
    process = script(PRINTS)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert output.endswith("Stopped before there was anything to save: start the same command again.\n")


def test_one_request_that_comes_twice_is_one_and_a_second_one_ends_the_process(script):
    process = script(RUN)
    assert process.stdout.readline() == "held\n"
    for _ in range(2):  # as `timeout` sends it: to the process, and to the group
        os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.2)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_however_it_ends_and_say_nothing(script, number):
    process = script(WORKERS)
    assert process.stdout.readline() == "100\n"
    assert len(session(process.pid)) >= 3
    os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    _, errors = process.communicate()
    processes.wait_until(lambda: not session(process.pid))
    if number == signal.SIGKILL:
        assert process.returncode == -number and errors == ""
    else:
        assert process.returncode == 128 + number
        assert errors == "Stopped before there was anything to save: start the same command again.\n"


def test_studies_that_are_asked_to_end_end_their_runs(tmp_path, folder):
    arguments = ["benchmarks/studies.py", "--scale=digits", "--sweeps=shortcuts", f"--out={tmp_path / 'out'}"]
    arguments += [f"--runs={tmp_path / 'runs'}", "--config.base.parallel.devices=1"]
    command = signals.Command([sys.executable, *arguments], signals.environment(folder / "cache"))
    begun = lambda: any(tmp_path.rglob("metrics.jsonl"))  # noqa: E731
    code, wrong = signals.stop(command, begun, signal.SIGTERM, "process")
    assert code == 128 + signal.SIGTERM and not wrong
