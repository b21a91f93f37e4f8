"""Joining the processes of a run, and agreeing among them; programs that train start here."""

import os
import socket
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.common.exits import ConfigError

VARIABLES = ("CLIPJAX_COORDINATOR", "CLIPJAX_NUM_PROCESSES", "CLIPJAX_PROCESS_ID")
HEARTBEAT_SECONDS = 60  # a peer silent for so long is taken for dead


def initialize(*, timeout_seconds: int = 300, alone: bool = True) -> None:
    """Join this run's processes; call before anything asks jax for devices.

    `CLIPJAX_COORDINATOR` (host:port), `CLIPJAX_NUM_PROCESSES` and `CLIPJAX_PROCESS_ID` win; else
    the cluster is detected (TPU VM, GKE, SLURM); else this is the only process. One joins too:
    without it jax does not turn SIGTERM into a preemption notice.

    Args:
      timeout_seconds: how long to wait for the others.
      alone: join also as the only process. Programs that do not poll for preemption pass False:
        their SIGTERM keeps its usual meaning.

    Raises:
      ConfigError: some but not all of the variables are set, or they are not numbers.
    """
    if jax.distributed.is_initialized():
        return
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given:
        if len(given) < len(VARIABLES):
            missing = ", ".join(sorted(set(VARIABLES) - set(given)))
            raise ConfigError(f"{given[0]} is set, but not {missing}; set all three or none")
        address, count, index = (os.environ[name] for name in VARIABLES)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise ConfigError(
                f"CLIPJAX_PROCESS_ID={index} of CLIPJAX_NUM_PROCESSES={count}:"
                " write numbers, the first below the second"
            )
        _join(address, int(count), int(index), timeout_seconds)
    elif _in_cluster():
        jax.distributed.initialize(
            initialization_timeout=timeout_seconds, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    elif alone:
        _join(f"127.0.0.1:{_free_port()}", 1, 0, timeout_seconds)


def _join(address: str, count: int, index: int, timeout_seconds: int) -> None:
    jax.distributed.initialize(
        address,
        num_processes=count,
        process_id=index,
        initialization_timeout=timeout_seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        # The coordination service has no authentication: a local run listens locally.
        coordinator_bind_address=address if address.startswith(("127.", "localhost:")) else None,
    )


def _in_cluster() -> bool:
    """Whether jax should detect a cluster: several SLURM tasks, or a TPU host not told CPUs."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # an interactive job has one
        return True
    if os.environ.get("JAX_PLATFORMS", "").startswith(("cpu", "cuda")):
        return False
    # jax has no public name for "would a cluster be found?"
    from jax._src.clusters import cloud_tpu_cluster

    return any(
        cluster.is_env_present()
        for cluster in (cloud_tpu_cluster.GkeTpuCluster, cloud_tpu_cluster.GceTpuCluster)
    )


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


def gather(values: Any) -> np.ndarray:
    """A small host array [...] of every process, [processes, ...]; a collective."""
    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def gather_sum(values: Any) -> np.ndarray:
    """Sum over processes of a small host array; a collective."""
    return gather(values).sum(axis=0)
