"""Who belongs to a run: how many processes, which one this is, where they meet; for `distributed`.

The variables CLIPJAX_… win; else jax's own detection is asked: a TPU VM's metadata server, GKE's
and SLURM's variables. jax is only asked, not left to join, so that the user can be told first how
many are expected and how the others are started.
"""

import dataclasses
import os
import re
from typing import Any

from clipjax.common.exits import ConfigError

VARIABLES = ("CLIPJAX_COORDINATOR", "CLIPJAX_NUM_PROCESSES", "CLIPJAX_PROCESS_ID")
LAUNCHER = "CLIPJAX_STARTED_BY"  # set by a program that starts all of them: launch/local.py
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d+)?")


@dataclasses.dataclass(frozen=True)
class Peers:
    """The processes of a run.

    Attributes:
      where: what told it, "a TPU slice", for messages.
      count, index: processes, and which of them this is.
      start_others: how the user starts the same program on the others; "" where a launcher does.
      address: "host:port" of process 0; "" asks `cluster` for it, which may wait for that host.
      cluster: jax's description of the cluster; None with variables.
    """

    where: str
    count: int
    index: int
    start_others: str
    address: str = ""
    cluster: Any = None

    def coordinator(self, *, timeout_seconds: int) -> str:
        """ "host:port" of process 0; waits until its name is known to the network."""
        if self.address:
            return self.address
        return self.cluster.get_coordinator_address(
            timeout_seconds, os.environ.get("JAX_COORDINATOR_PORT")
        )

    @property
    def devices(self) -> list[int] | None:
        """Ids of this machine's devices that are this process's own; None is all."""
        local = self.cluster.get_local_process_id() if self.cluster is not None else None
        return None if local is None else [local]


def find() -> Peers | None:
    """The processes of this run; None where nothing says that there are several.

    Raises:
      ConfigError: the variables are incomplete or no numbers, or a cluster says what cannot be.
    """
    if any(os.environ.get(name) for name in VARIABLES):
        return _of_variables()
    cluster = _cluster()
    if cluster is None:
        return None
    kind, start_others = _KINDS[cluster.name]
    try:
        count, index = cluster.get_process_count(), cluster.get_process_id()
        hosts = getattr(cluster, "_get_worker_list_in_slice", list)()
    except Exception as error:  # of a malformed answer jax raises any
        raise ConfigError(_unreadable(kind, f"{type(error).__name__}: {error}")) from error
    wrong = [host for host in hosts if not HOST.fullmatch(host)]
    if wrong or not 0 <= index < count:
        reason = f"host {wrong[0][:60]!r}" if wrong else f"process {index} of {count}"
        raise ConfigError(_unreadable(kind, reason))
    return Peers(kind, count, index, start_others, cluster=cluster)


def _of_variables() -> Peers:
    present = [name for name in VARIABLES if os.environ.get(name)]
    if len(present) < len(VARIABLES):
        missing = ", ".join(sorted(set(VARIABLES) - set(present)))
        raise ConfigError(f"{present[0]} is set, but not {missing}; set all three or none")
    address, count, index = (os.environ[name] for name in VARIABLES)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise ConfigError(
            f"CLIPJAX_PROCESS_ID={index} of CLIPJAX_NUM_PROCESSES={count}:"
            " write numbers, the first below the second"
        )
    if not re.fullmatch(r"\S+:\d+", address):
        raise ConfigError(f"CLIPJAX_COORDINATOR={address}: write host:port of process 0")
    others = (
        f"the same command with CLIPJAX_COORDINATOR={address} CLIPJAX_NUM_PROCESSES={count} and a"
        f" CLIPJAX_PROCESS_ID of its own, 0 to {int(count) - 1}; their machines must reach it"
    )
    others = "" if os.environ.get(LAUNCHER) else others
    return Peers("CLIPJAX_ variables", int(count), int(index), others, address)


_KINDS = {  # jax's name of the cluster → what we call it, and how its other processes are started
    "gcetpu": (
        "a TPU slice",
        "the same command on every host of every slice: launch/tpu_vm.sh run NAME --zone=… -- …, or"
        " gcloud compute tpus tpu-vm ssh NAME --worker=all --command=…",
    ),
    "gketpu": (
        "a GKE TPU slice",
        "the same command in every pod: a Job's parallelism and completions are the hosts of a"
        " slice, replicas are slices (launch/gke_jobset.yaml)",
    ),
    "slurm": (
        "SLURM",
        "one task for each GPU through srun, as launch/slurm.sbatch does; in an interactive job:"
        " srun --ntasks=1 for one process",
    ),
}


def _unreadable(kind: str, reason: str) -> str:
    return (
        f"{kind}: its list of hosts cannot be used ({' '.join(reason.split())[:200]}); name the"
        f" processes yourself: {', '.join(VARIABLES)}"
    )


def _cluster() -> Any:
    """jax's class for the cluster this process is in: several SLURM tasks, or a TPU host that is
    not told to use something else."""
    # jax has no public name for "would a cluster be found, and which?"
    from jax._src.clusters import cloud_tpu_cluster, slurm_cluster

    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # an interactive job has one
        return slurm_cluster.SlurmCluster
    if os.environ.get("JAX_PLATFORMS", "").startswith(("cpu", "cuda")):
        return None
    kinds = (cloud_tpu_cluster.GkeTpuCluster, cloud_tpu_cluster.GceTpuCluster)
    return next((kind for kind in kinds if kind.is_env_present()), None)
