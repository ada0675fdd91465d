"""Processes that tests start: each in a session of its own, which is killed after the test, however that ends."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[1]
LIMIT_SECONDS = 600  # for what takes some seconds: a machine may be ten times slower, and do other work

_started = []


def start(command, **options):
    """Start a command in the project's folder; its output is text that the test reads, unless options say otherwise."""
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
    process = subprocess.Popen(command, start_new_session=True, **options)
    _started.append(process)
    return process


@contextlib.contextmanager
def no_more_children():
    """Assert that no worker process is left of those that start here; other tests may have some of their own."""
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def wait_until(condition, *processes):
    """Wait until a condition holds, while some processes run."""
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, [process.communicate() for process in ended]
        assert time.monotonic() < end
        time.sleep(0.01)


def end_all():
    """Kill every process that was started, and those that these have started."""
    while _started:
        process = _started.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # closes its pipes and waits for it
            pass
