"""Worker processes that call a function on one item after the other, and give the results in the order of the items.

Nothing of them has a name: a result is in anonymous memory whose descriptor comes through a socket, so nothing is
left in /dev/shm and no limit of /dev/shm applies, however a process ends. Workers ignore SIGINT and SIGTERM, which a
terminal or a scheduler sends to the whole group, and end with their parent, however that ends.
"""

import collections
import contextlib
import itertools
import mmap
import multiprocessing
import multiprocessing.util
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import IO, Any

from resnet_jax.run.interrupts import blocked

READ_AHEAD = 3  # results that each worker holds ready, or works on
ALIGNMENT = 64  # bytes


class WorkerKilled(Exception):
    """A worker process has ended. The text says by which exit code."""


class Workers:
    """So many processes, which start when they are first needed and serve until they are closed.

    Several `map`s may be under way at a time, in one thread.
    """

    def __init__(self, count: int):
        self.count = count
        self._tickets = itertools.count()
        self._dropped = set()  # tickets of results that nobody will ask for
        self._forget()

    def _forget(self) -> None:
        self._processes, self._connections = [], []
        self._functions = []  # those that the workers know
        self._waiting = []  # by worker: the tickets of results that are to come, in order
        self._arrived = {}  # by ticket: results that came before they were asked for

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield `function(item)` for each item, in order. Function, items and results must pickle.

        Raises:
          WorkerKilled: a worker has ended.
          Exception: what the function raises.
        """
        tickets = collections.deque()
        try:
            for item in items:
                tickets.append(self._ask(function, item))
                if len(tickets) >= READ_AHEAD * self.count:
                    yield self._answer(*tickets.popleft())
            while tickets:
                yield self._answer(*tickets.popleft())
        finally:
            self._dropped.update(ticket for _, ticket in tickets)
            for ticket in self._dropped & self._arrived.keys():
                del self._arrived[ticket]
                self._dropped.remove(ticket)

    def close(self) -> None:
        """End the processes. The next `map` starts others."""
        if self._processes:
            self._finalizer()
        self._forget()

    def _ask(self, function: Callable, item: Any) -> tuple[int, int]:
        """Let a worker begin with an item; return the worker and the ticket of the result."""
        if not self._processes:
            self._start()
        if not any(function is known for known in self._functions):
            self._functions.append(function)
            self._send(range(self.count), None, function)
        key = next(key for key, known in enumerate(self._functions) if function is known)
        ticket = next(self._tickets)
        worker = ticket % self.count
        self._send([worker], key, item)
        self._waiting[worker].append(ticket)
        return worker, ticket

    def _answer(self, worker: int, ticket: int) -> Any:
        while ticket not in self._arrived:
            arrived = self._waiting[worker].popleft()
            result = self._receive(worker)
            if arrived in self._dropped:
                self._dropped.remove(arrived)
            else:
                self._arrived[arrived] = result
        succeeded, result = self._arrived.pop(ticket)
        if not succeeded:
            raise result
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with blocked():
            for _ in range(self.count):
                here, there = multiprocessing.Pipe()
                process = context.Process(target=serve, args=(there,), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
                self._connections.append(here)
                self._waiting.append(collections.deque())
        # Before `multiprocessing` asks its processes to end by a signal that they ignore.
        self._finalizer = multiprocessing.util.Finalize(self, end, (list(self._processes),), exitpriority=100)

    def _send(self, workers: Iterable[int], *message: Any) -> None:
        with written(message) as (sizes, file):
            for worker in workers:
                try:
                    send(self._connections[worker], sizes, file)
                except OSError as error:
                    raise self._killed(worker) from error

    def _receive(self, worker: int) -> tuple[bool, Any]:
        try:
            return receive(self._connections[worker])
        except (EOFError, OSError) as error:
            raise self._killed(worker) from error

    def _killed(self, worker: int) -> WorkerKilled:
        process = self._processes[worker]
        process.join()
        code = process.exitcode
        self.close()
        return WorkerKilled(f"exit code {code}")


def end(processes: list[multiprocessing.Process]) -> None:
    """End worker processes, which have nothing to lose."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def serve(connection: Connection) -> None:
    """Answer the messages of the parent process until it ends."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    functions = []
    while True:
        try:
            key, item = receive(connection)
            if key is None:
                functions.append(item)
            else:
                with written(answer(functions[key], item)) as (sizes, file):
                    send(connection, sizes, file)
        except (EOFError, OSError):
            return


def answer(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    """Return whether the call succeeded, and its result or its error."""
    try:
        return True, function(item)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return False, RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


def end_with_parent() -> None:
    """End this process when its parent has ended, whatever it is doing."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


@contextlib.contextmanager
def written(message: Any) -> Iterator[tuple[list[int], IO]]:
    """Write any value to an anonymous file: its pickle, and after it each array, of the sizes that are given too."""
    buffers = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    with anonymous_file() as file:
        for part, size in zip(parts, sizes, strict=True):
            file.write(part)
            file.write(bytes(-size % ALIGNMENT))
        file.flush()
        yield sizes, file


def send(connection: Connection, sizes: list[int], file: IO) -> None:
    """Send what was written; who receives it reads the same memory."""
    connection.send(sizes)
    send_handle(connection, file.fileno(), None)


def receive(connection: Connection) -> Any:
    """Return what was sent; its arrays are views of the memory that the sender filled."""
    sizes = connection.recv()
    descriptor = recv_handle(connection)
    try:
        memory = memoryview(mmap.mmap(descriptor, sum(size + -size % ALIGNMENT for size in sizes)))
    finally:
        os.close(descriptor)
    starts = itertools.accumulate((size + -size % ALIGNMENT for size in sizes), initial=0)
    head, *buffers = (memory[start : start + size] for start, size in zip(starts, sizes, strict=False))
    return pickle.loads(head, buffers=buffers)


def anonymous_file() -> IO:
    """Return a file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("resnet_jax"), "w+b")
    return tempfile.TemporaryFile()
