"""Joining the processes of a run, and agreeing among them; programs that train start here."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.common import exits, streams
from clipjax.common.exits import CleanExit
from clipjax.parallel import peers, shutdown
from clipjax.parallel.peers import Peers

TIMEOUT_SECONDS = 300  # for all processes to be there
HEARTBEAT_SECONDS = 60
# jax ends the process by an abort when its time is over; ours, which says why, comes first.
MARGIN_SECONDS = 60


def initialize(
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    alone: bool = True,
) -> None:
    """Join this run's processes, see `peers.find`; call before anything asks jax for devices.

    Where there are others, says so first, and how they are started; ends the program with 70 and
    the same text when they do not come. The only process joins too: without it jax does not turn
    SIGTERM into a preemption notice.

    Args:
      timeout_seconds: how long to wait for the others.
      heartbeat_seconds: a peer silent for so long is taken for dead.
      alone: join also as the only process. Programs that do not poll for preemption pass False:
        their SIGTERM keeps its usual meaning.

    Raises:
      ConfigError: what the environment says of the processes is incomplete or cannot be.
    """
    if jax.distributed.is_initialized():
        return
    peer_group = peers.find()
    if peer_group is not None and peer_group.count > 1:
        with _waiting(peer_group, seconds=timeout_seconds):
            address = peer_group.coordinator(timeout_seconds=timeout_seconds + MARGIN_SECONDS)
            _join(
                *(address, peer_group.count, peer_group.index),
                seconds=timeout_seconds,
                heartbeat_seconds=heartbeat_seconds,
                devices=peer_group.devices,
            )
    elif alone:
        # The coordination service has no authentication: a local run listens locally.
        address = f"127.0.0.1:{_free_port()}"
        _join(address, 1, 0, seconds=timeout_seconds, heartbeat_seconds=heartbeat_seconds)


def _join(
    address: str,
    count: int,
    index: int,
    *,
    seconds: int,
    heartbeat_seconds: int,
    devices: list[int] | None = None,
) -> None:
    streams.mute_libraries()  # on CPUs gloo tells of each of its connections, be there none
    jax.distributed.initialize(
        address,
        num_processes=count,
        process_id=index,
        local_device_ids=devices,
        cluster_detection_method="deactivate",  # all is said
        initialization_timeout=seconds + MARGIN_SECONDS,
        heartbeat_timeout_seconds=heartbeat_seconds,
        coordinator_bind_address=address if address.startswith(("127.", "localhost:")) else None,
    )


@contextlib.contextmanager
def _waiting(peer_group: Peers, *, seconds: int) -> Iterator[None]:
    """Say that the others are waited for, and end the program with 70 after so many seconds."""
    others = f"the other {peer_group.count - 1}" if peer_group.count > 2 else "the other one"
    me = f"clipjax: process {peer_group.index} of {peer_group.count} ({peer_group.where})"
    how = f"; start {peer_group.start_others}" if peer_group.start_others else ""

    def give_up() -> None:
        print(f"{me}: {others} did not come in {seconds} s{how}", file=sys.stderr, flush=True)
        shutdown.end(exits.PEER_FAILURE)

    print(f"{me}: waiting for {others}, {seconds} s at most{how}", file=sys.stderr, flush=True)
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def is_lead() -> bool:
    """Whether this process writes files and talks to the user."""
    return jax.process_index() == 0


def from_lead(value: bytes) -> bytes:
    """Process 0's `value`, on every process; a collective, all processes must call it."""
    if jax.process_count() == 1:
        return value
    length = int(multihost_utils.broadcast_one_to_all(np.int64(len(value))))
    data = np.zeros(length, np.uint8)
    if is_lead():
        data[:] = np.frombuffer(value, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).astype(np.uint8).tobytes()


def on_lead(action: Callable[[], Any]) -> None:
    """Run `action` on process 0 alone; a collective. Its CleanExit is raised on every process."""
    problem: CleanExit | None = None
    if is_lead():
        try:
            action()
        except CleanExit as error:
            problem = error
    if jax.process_count() > 1:
        code, message = (problem.code, str(problem)) if problem is not None else (exits.DONE, "")
        code, _, message = from_lead(f"{code} {message}".encode()).decode().partition(" ")
        if problem is None and int(code) != exits.DONE:
            problem = CleanExit(message)
            problem.code = int(code)
    if problem is not None:
        raise problem


def gather(values: Any) -> np.ndarray:
    """A small host array [...] of every process, [processes, ...]; a collective."""
    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def gather_sum(values: Any) -> np.ndarray:
    """Sum over processes of a small host array; a collective."""
    return gather(values).sum(axis=0)
