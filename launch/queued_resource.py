"""Keep one run alive on a queued TPU resource: request, wait, run, and again after a preemption.

    python launch/queued_resource.py --name=vitb32 --zone=us-east5-b --type=v6e-16 --spot -- \
        --config=configs/vitb32.py --workdir=gs://BUCKET/vitb32

Leave it running anywhere gcloud is signed in; the run itself does not depend on it, and started
again it finds the run. PREEMPTED or SUSPENDED: delete, request again, resume from the work
directory. Exit codes decide the rest (clipjax/common/exits.py): preemptions and failures have a
budget each, with exponential backoff; what a restart cannot cure stops, and so do three failures
in a row that were quick or got no further. At the end the resource is deleted (`--keep` keeps it).
Standard library only.
"""

import argparse
import dataclasses
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import tpu_queue
from local import Parser
from tpu_queue import Lost, Stop, say

from clipjax.common import exits

DONE, STOP, PREEMPTION, FAILURE = "done", "stop", "preemption", "failure"
VERDICTS = {  # codes not listed are failures
    exits.DONE: (DONE, "the run is complete"),
    exits.BAD_CONFIG: (STOP, "bad config or flags"),
    exits.BAD_DATA: (STOP, "bad data"),
    exits.PEER_FAILURE: (FAILURE, "a process or the runtime failed"),
    exits.OUT_OF_MEMORY: (STOP, "out of device memory"),
    exits.CHECKPOINT_IO: (STOP, "checkpoints cannot be written or read"),
    exits.HANG: (FAILURE, "the watchdog ended a hang"),
    exits.DIVERGED: (STOP, "the run diverged"),
    exits.INTERRUPTED: (STOP, "interrupted by its user, state saved"),
    exits.PREEMPTED: (PREEMPTION, "preempted, state saved"),
}
CRASH_LOOP = 3  # failures in a row, quick or without progress


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt ended: verdict, why, exit code, last step in the log, seconds it ran."""

    verdict: str
    why: str
    code: int
    step: int
    seconds: float


def setup_flags(options: argparse.Namespace) -> list[str]:
    """What tpu_vm.sh's setup is told: where the code is, and the file of secrets."""
    values = {flag: getattr(options, flag) for flag in ("repo", "ref", "env_file")}
    return [f"--{flag}={value}" for flag, value in values.items() if value]


def start(options: argparse.Namespace, *, new: bool) -> None:
    """Set up where nothing is, and start the run unless it is already under way.

    Raises:
      Stop: a restart would meet the same error.
      CalledProcessError: a step on the workers failed.
    """
    found = None if new else tpu_queue.workers(options)
    if found and any(worker["state"] == "running" for worker in found):
        say("the run is under way; following it")
        return
    steps = [("run", ["--", *options.arguments])]
    if not found or any(worker["state"] == "none" for worker in found):
        steps.insert(0, ("setup", setup_flags(options)))
    for verb, flags in steps:
        say(f"tpu_vm.sh {verb}")
        code, _ = tpu_queue.on_nodes(options, verb, *flags)
        if code == exits.BAD_CONFIG:
            raise Stop(code, f"tpu_vm.sh {verb} refused, see above")
        if code:
            raise subprocess.CalledProcessError(code, f"tpu_vm.sh {verb}")


def follow(options: argparse.Namespace, *, steps: list[int], clock: Any) -> int:
    """Until all workers have ended; the strongest exit code. Steps seen are added to `steps`.

    Raises:
      Lost: the resource is being taken away.
      Stop: it was deleted from outside.
      CalledProcessError: the workers do not answer.
    """
    silent, first_end = 0, None
    while True:
        clock.sleep(options.poll_seconds)
        state, _ = tpu_queue.state_of(options, clock=clock)
        if state in ("", "DELETING"):
            raise Stop(exits.INTERRUPTED, f"{options.name} was deleted from outside")
        if state != "ACTIVE":
            raise Lost(state)
        found = tpu_queue.workers(options)
        if found is None:
            silent += 1
            if silent < options.max_silent_polls:
                continue
            tpu_queue.delete(options, clock=clock)  # the next attempt begins with a new one
            raise subprocess.CalledProcessError(exits.PEER_FAILURE, "tpu_vm.sh status")
        silent = 0
        steps += [int(worker["step"]) for worker in found if "step" in worker]
        ended = [int(worker["code"]) for worker in found if worker["state"] == "ended"]
        if len(ended) == len(found):
            return exits.strongest(ended)
        if ended:
            first_end = clock.monotonic() if first_end is None else first_end
            if clock.monotonic() - first_end > options.straggler_seconds:
                say(f"{len(ended)} of {len(found)} workers have ended; ending the others")
                tpu_queue.on_nodes(options, "stop", "--kill")


def attempt(options: argparse.Namespace, *, clock: Any) -> Outcome:
    """One run, from getting the resource to the end of the program or the loss of the resource."""
    begun, steps = clock.monotonic(), [-1]
    try:
        new = tpu_queue.acquire(options, clock=clock)
        begun = clock.monotonic()  # a long wait in the queue is not a long run
        start(options, new=new)
        code = follow(options, steps=steps, clock=clock)
        verdict, meaning = VERDICTS.get(code, (FAILURE, "a failure"))
        why = f"exit code {code}, {meaning}"
    except Lost as lost:
        refused = str(lost) == "FAILED"
        verdict, code = (FAILURE, exits.PEER_FAILURE) if refused else (PREEMPTION, exits.PREEMPTED)
        why = f"the resource is {lost}"
        if tpu_queue.state_of(options, clock=clock)[0] == "ACTIVE":  # only a node of it is lost
            tpu_queue.delete(options, clock=clock)
    except subprocess.CalledProcessError as error:
        verdict, code = FAILURE, error.returncode
        why = f"{error.cmd} failed with exit code {code}"
    seconds = clock.monotonic() - begun
    if verdict == FAILURE:
        state, _ = tpu_queue.state_of(options, clock=clock)
        if state in tpu_queue.GONE:  # what failed was the machine under the run
            verdict, why = PREEMPTION, f"the resource is {state} ({why})"
    return Outcome(verdict, why, code, max(steps), seconds)


def supervise(
    options: argparse.Namespace, *, clock: Any = time, jitter: Callable[[], float] = random.random
) -> None:
    """Attempt until the run is complete, must not be restarted, or a budget is spent.

    Args:
      options: as `parse` gives them.
      clock: has `monotonic` and `sleep`, in seconds.
      jitter: uniform in [0, 1).

    Raises:
      Stop: always, with the exit code and why.
    """
    budgets = {PREEMPTION: options.max_preemptions, FAILURE: options.max_failures}
    spent = {PREEMPTION: 0, FAILURE: 0}
    best, idle, crashes = -1, 0, 0
    while True:
        outcome = attempt(options, clock=clock)
        kind = outcome.verdict
        if kind not in budgets:
            raise Stop(outcome.code, outcome.why)
        spent[kind] += 1
        progress = outcome.step > best
        best = max(best, outcome.step)
        idle = 0 if progress else idle + 1
        if kind == FAILURE:
            quick = outcome.seconds < options.quick_seconds
            crashes = crashes + 1 if quick or not progress else 1
        if spent[kind] > budgets[kind]:
            raise Stop(outcome.code, f"{outcome.why}; {kind} budget of {budgets[kind]} spent")
        if crashes >= CRASH_LOOP:
            loop = f"{crashes} failures in a row, quick or no further than step {best}"
            raise Stop(outcome.code, f"{outcome.why}; {loop}")
        longest = min(options.backoff_max_seconds, options.backoff_seconds * 2 ** min(idle, 20))
        delay = longest * (0.5 + 0.5 * jitter())
        say(f"{outcome.why}; {kind} {spent[kind]} of {budgets[kind]}, again in {delay:.0f} s")
        clock.sleep(delay)


def finish(options: argparse.Namespace, stop: Stop, *, clock: Any = time) -> int:
    """Say why, show the log's end after a failure, end the billing; returns the exit code."""
    code, why = stop.args
    delete = shlex.join(tpu_queue.delete_command(options))
    say(f"end: {why}")
    try:
        if code and tpu_queue.state_of(options, clock=clock)[0] == "ACTIVE":
            tpu_queue.on_nodes(options, "logs", "--lines=50")
        if options.keep:
            say(f"{options.name} is kept, and billed until: {delete}")
        else:
            tpu_queue.delete(options, clock=clock)
            say(f"{options.name} is deleted")
    except Stop as error:
        say(f"{error.args[1]}; to end the billing: {delete}")
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, and as `arguments` what comes after `--`; leaves with 64 where one is wrong."""
    parser = Parser(prog="queued_resource.py", description=__doc__)
    add = parser.add_argument
    add("--name", required=True, help="of the resource and its node")
    add("--zone", required=True)
    add("--type", required=True, help="for example v6e-16, v5litepod-64")
    add("--version", default="", help="runtime image; default by --type")
    add("--project", default="")
    add("--slices", type=int, default=1, help="nodes of one run (multislice)")
    add("--spot", dest="create_flag", action="append_const", const="--spot")
    add("--create_flag", action="append", help="passed to create, for example --network=default")
    add("--internal_ip", action="store_true")
    add("--repo", default="", help="git address; default: this checkout's HEAD is sent")
    add("--ref", default="", help="branch, tag or commit of --repo")
    add("--env_file", default="", help="variables for the program (secrets), mode 600")
    add("--max_preemptions", type=int, default=100)
    add("--max_failures", type=int, default=5)
    add("--max_silent_polls", type=int, default=10, help="then the workers are given up")
    add("--poll_seconds", type=float, default=60.0)
    add("--quick_seconds", type=float, default=300.0, help="a failure before counts as quick")
    add("--straggler_seconds", type=float, default=900.0, help="for the rest, after one has ended")
    add("--backoff_seconds", type=float, default=30.0)
    add("--backoff_max_seconds", type=float, default=1800.0)
    add("--keep", action="store_true", help="do not delete the resource at the end")
    add("--dry_run", action="store_true", help="print the commands, call nothing")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.arguments = arguments[end + 1 :]
    options.create_flag = options.create_flag or []
    given = " ".join(options.arguments) + " "
    if not re.search(r"(^| )--?workdir[= ]([a-z0-9]+://|/)", given):
        parser.error("after --, give --workdir=gs://…: a preemption deletes the workers' disks")
    if options.slices < 1:
        parser.error(f"--slices={options.slices}: at least 1")
    flags = [f"--type={options.type}", *[f"--create_flag={f}" for f in options.create_flag]]
    flags += [f"--version={options.version}"] if options.version else []
    flags += setup_flags(options)
    program = ["--", *options.arguments]
    code, version = tpu_queue.on_nodes(options, "check", *flags, *program, capture=True)
    if code:
        sys.exit(code)  # tpu_vm.sh has said why
    options.version = version.split()[0]
    if not options.dry_run and shutil.which("gcloud") is None:
        parser.error("gcloud is not installed: https://cloud.google.com/sdk/docs/install")
    return options


def dry_run(options: argparse.Namespace) -> None:
    """Print the commands of a life with one preemption; call nothing."""
    create = shlex.join(tpu_queue.create_command(options))
    delete = shlex.join(tpu_queue.delete_command(options))
    print(create, flush=True)
    steps = {"setup": setup_flags(options), "run": ["--", *options.arguments], "status": []}
    for verb, flags in steps.items():
        tpu_queue.on_nodes(options, verb, "--dry_run", *flags)
    print("# after a preemption, then as above:", delete, create, "# at the end:", delete, sep="\n")


def main() -> int:
    """Supervise, then tidy up."""
    options = parse(sys.argv[1:])
    if options.dry_run:
        dry_run(options)
        return exits.DONE
    try:
        supervise(options)
    except Stop as stop:
        return finish(options, stop)
    except KeyboardInterrupt:
        say("left; the run goes on and is billed. The same command follows it again; to end it:")
        print(shlex.join(tpu_queue.delete_command(options)))
        return exits.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
