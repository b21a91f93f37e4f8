"""What queued_resource.py asks of the cloud: the resource through gcloud, its workers through
tpu_vm.sh. Every answer is a plain value; nothing here decides about restarts.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from clipjax.common import exits

TPU_VM = str(pathlib.Path(__file__).resolve().parent / "tpu_vm.sh")
GONE = ("SUSPENDING", "SUSPENDED", "PREEMPTED", "TERMINATED", "STOPPED", "STOPPING")
GCLOUD_TRIES = 8
HOPELESS = r"INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED|auth login|unrecognized arguments"


class Stop(Exception):
    """The end: exit code, reason."""


class Lost(Exception):
    """The resource is not, or no longer, ours to run on: its state."""


def say(text: str) -> None:
    """A line for the user, with the time."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def where(options: argparse.Namespace) -> list[str]:
    """The flags that gcloud and tpu_vm.sh share."""
    project = [f"--project={options.project}"] if options.project else []
    return [f"--zone={options.zone}", *project]


def command(options: argparse.Namespace, verb: str, *flags: str) -> list[str]:
    """A gcloud command on the resource."""
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    return [*queued, verb, options.name, *where(options), *flags]


def create_command(options: argparse.Namespace) -> list[str]:
    """Requests the resource, with one node for each slice."""
    node = [f"--node-id={options.name}"]
    if options.slices > 1:
        node = [f"--node-count={options.slices}", f"--node-prefix={options.name}"]
    kind = [f"--accelerator-type={options.type}", f"--runtime-version={options.version}"]
    return command(options, "create", *node, *kind, *options.create_flag)


def delete_command(options: argparse.Namespace) -> list[str]:
    """Ends the resource and its nodes, and with them the billing."""
    return command(options, "delete", "--force", "--quiet")


def gcloud(arguments: list[str], *, options: argparse.Namespace, clock: Any, fine: str = "") -> str:
    """Run it, again while the trouble may pass; its output, "" where an error matches `fine`.

    Raises:
      Stop: gcloud says that trying again is of no use, or it has failed too often.
    """
    for tries in range(GCLOUD_TRIES):
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        if fine and re.search(fine, done.stderr):
            return ""
        told = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if re.search(HOPELESS, done.stderr):
            raise Stop(exits.BAD_CONFIG, f"gcloud: {told}")
        say(f"gcloud failed, try {tries + 1} of {GCLOUD_TRIES}: {told}")
        clock.sleep(min(options.backoff_max_seconds, options.backoff_seconds * 2**tries))
    raise Stop(exits.PEER_FAILURE, "gcloud fails; what exists is still billed")


def delete(options: argparse.Namespace, *, clock: Any) -> None:
    """Delete the resource, if there is one."""
    gcloud(delete_command(options), options=options, clock=clock, fine="NOT_FOUND|not found")


def state_of(options: argparse.Namespace, *, clock: Any) -> tuple[str, str]:
    """State of the resource, "" where there is none, and what it says of its failure."""
    describe = command(options, "describe", "--format=json(state)")
    text = gcloud(describe, options=options, clock=clock, fine="NOT_FOUND|not found")
    state = json.loads(text or "{}").get("state", {})
    return state.get("state", ""), state.get("failedData", {}).get("error", {}).get("message", "")


def acquire(options: argparse.Namespace, *, clock: Any) -> bool:
    """Until the resource is ACTIVE; returns whether it is new, with nothing installed.

    Raises:
      Lost: the request was refused, or taken back before it was ever ours.
    """
    new, told = False, None
    while True:
        state, message = state_of(options, clock=clock)
        if state != told:
            say(f"{options.name}: {state or 'does not exist'}{message and ': '}{message}")
            told = state
        if state == "ACTIVE":
            return new
        if state in ("", "SUSPENDED", "FAILED"):
            if new:
                raise Lost(state or "gone")
            if state:
                delete(options, clock=clock)
            gcloud(create_command(options), options=options, clock=clock, fine="ALREADY_EXISTS")
            new = True
        clock.sleep(options.poll_seconds)


def on_nodes(
    options: argparse.Namespace, verb: str, *flags: str, capture: bool = False
) -> tuple[int, str]:
    """tpu_vm.sh on all nodes at once: the first exit code that is not 0, and what was printed."""
    names = [options.name]
    if options.slices > 1:
        names = [f"{options.name}-{index}" for index in range(options.slices)]
    internal_ip = ["--internal_ip"] if options.internal_ip else []
    processes = [
        subprocess.Popen(
            ["bash", TPU_VM, verb, name, *where(options), *internal_ip, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            text=True,
        )
        for name in names
    ]
    printed = "".join(process.communicate()[0] or "" for process in processes)
    return next((p.returncode for p in processes if p.returncode), 0), printed


def workers(options: argparse.Namespace) -> list[dict[str, str]] | None:
    """What each worker says, {host, state, code, step}; None where one cannot be asked.

    Raises:
      Lost: a node is preempted, though the resource may not say so yet.
    """
    code, printed = on_nodes(options, "status", capture=True)
    lines = [line for line in printed.splitlines() if line.startswith("clipjax ")]
    told = [dict(pair.split("=", 1) for pair in line.split()[1:]) for line in lines]
    for line in told:
        if "node" in line and line["state"] in GONE:
            raise Lost(line["state"])
    found = [line for line in told if "host" in line]
    return found if found and not code else None
