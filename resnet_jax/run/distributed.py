"""Hosts: how the processes of a run find each other, and how all of them end when one does."""

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from resnet_jax.errors import ConfigError, Diverged, UserError
from resnet_jax.run.interrupts import Interrupted, join_hosts

START_SECONDS = 300  # in which all hosts must have come


@contextlib.contextmanager
def joined(coordinator: str, hosts: int, host: int, heartbeat_seconds: int) -> Iterator[None]:
    """Join a run of several hosts: entered before anything else touches a device.

    All but the first host print nothing but errors. A host that is lost is named to the others by JAX's coordination
    service, which ends them.

    Args:
      coordinator: HOST:PORT of the first host, or "auto" where Slurm, Open MPI, Kubernetes or Cloud TPU tell.
      hosts: how many there are.
      host: the number of this one, from 0.
      heartbeat_seconds: after which a silent host is lost.

    Raises:
      ConfigError: the fields do not fit, no cluster is found, or not all hosts came.
    """
    if hosts == 1 and coordinator != "auto":
        yield
        return
    start(coordinator, hosts, host, heartbeat_seconds)
    with contextlib.ExitStack() as stack:
        if jax.process_index():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        except (Diverged, Interrupted):  # which all hosts come to at the same step
            raise
        except Exception as error:
            end_alone(error, 2 * heartbeat_seconds)


def start(coordinator: str, hosts: int, host: int, heartbeat_seconds: int) -> None:
    """Connect to the coordinator, which the first host starts. Raises ConfigError for fields that do not fit."""
    if coordinator != "auto" and not (coordinator.rpartition(":")[0] and coordinator.rpartition(":")[2].isdigit()):
        raise ConfigError(f"parallel.coordinator is {coordinator!r}: give HOST:PORT of the first host, or auto.")
    if not 0 <= host < hosts:
        raise ConfigError(f"parallel.host is {host} and parallel.hosts is {hosts}: hosts are numbered from 0.")
    known: dict[str, Any] = dict(
        coordinator_address=coordinator, num_processes=hosts, process_id=host, cluster_detection_method="deactivate"
    )
    if coordinator != "auto":
        find(coordinator.rpartition(":")[0])
    try:
        jax.distributed.initialize(
            **({} if coordinator == "auto" else known),
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (ValueError, RuntimeError) as error:  # no cluster is found, or not all hosts came
        raise ConfigError(
            f"the hosts can not be joined ({str(error).splitlines()[0]}): start all of them, and set "
            "parallel.coordinator, parallel.hosts and parallel.host."
        ) from error
    join_hosts()


def find(name: str) -> None:
    """Wait until the name of the coordinator is known, as that of a pod is once it has started.

    Raises ConfigError if that takes longer than all hosts have time to come.
    """
    end, waits = time.monotonic() + START_SECONDS, False
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except (OSError, UnicodeError) as error:
            check = f"check the spelling of {name!r} in parallel.coordinator, and that the first host has started"
            if time.monotonic() > end:
                raise ConfigError(f"the coordinator cannot be found ({error}): {check}.") from error
            if not waits:
                print(
                    f"Waiting up to {START_SECONDS} s for the coordinator, whose name is not known ({error}): {check}.",
                    file=sys.stderr,
                    flush=True,
                )
            waits = True
            time.sleep(1)


def end_alone(error: Exception, patience: float) -> None:
    """End this process without waiting for the others, which then hear that it is lost.

    An error that is not the user's may come from a collective, because another host is lost: then this one waits, for
    `patience` seconds at most, until the service names that host and ends it.
    """
    here = f"host {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, UserError):
        print(f"error: {here}: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    traceback.print_exception(error)
    print(f"error: {here} cannot continue; if another host is lost, it is named below.", file=sys.stderr)
    sys.stderr.flush()
    time.sleep(patience)
    os._exit(1)
