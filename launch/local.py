"""Run one program as several processes on this machine, joined to one run, CPU or GPU.

    python launch/local.py --processes=2 --cpu_devices=4 -- \
        python -m clipjax.main --config=configs/quickstart.py --workdir=runs/two
    python launch/local.py --processes=8 --gpus_per_process=1 -- python -m clipjax.main …

Each line of output is prefixed with its process. SIGTERM and Ctrl-C reach every process (the run
saves and ends); when one process fails, the others get `--grace_seconds` to end by themselves.
Leaves with the strongest exit code; no process outlives this one. Standard library only.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from clipjax.common import exits

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def environment(index: int, *, options: argparse.Namespace, port: int) -> dict[str, str]:
    """The variables of process `index`: how it joins, and which devices are its own."""
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "CLIPJAX_COORDINATOR": f"127.0.0.1:{port}",
        "CLIPJAX_NUM_PROCESSES": str(options.processes),
        "CLIPJAX_PROCESS_ID": str(index),
        "CLIPJAX_STARTED_BY": "local.py",
    }
    if options.cpu_devices:
        flag = f"--xla_force_host_platform_device_count={options.cpu_devices}"
        env["JAX_PLATFORMS"] = "cpu"
        env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if options.gpus_per_process:
        each = options.gpus_per_process
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(n) for n in range(options.processes * each)]
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index * each : (index + 1) * each])
    return env


def start(command: list[str], *, env: dict[str, str]) -> subprocess.Popen:
    """A process in a session of its own: signals come from us, once."""
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_parent() -> None:
        if sys.platform.startswith("linux"):
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,  # safe: no other thread runs yet
    )


def show(process: subprocess.Popen, prefix: str) -> None:
    """Print the process's lines as they come; a progress bar's updates are lines, too."""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{prefix} {line}" if line.endswith("\n") else f"{prefix} {line}\n", end="")
        sys.stdout.flush()


def wait(
    processes: list[subprocess.Popen], *, received: list[signal.Signals], grace_seconds: float
) -> list[int]:
    """Until all have ended; passes on what `received` collects. Codes as a shell would say them."""
    alive = list(processes)
    deadline = float("inf")
    while alive:
        while received:
            number = received.pop(0)
            for process in alive:
                process.send_signal(number)
        for process in [process for process in alive if process.poll() is not None]:
            kill(process)  # what it left behind: loader processes
            alive.remove(process)
            if process.returncode:
                deadline = min(deadline, time.monotonic() + grace_seconds)
        if time.monotonic() > deadline:
            for process in alive:
                kill(process)
        time.sleep(POLL_SECONDS)
    return [128 - p.returncode if p.returncode < 0 else p.returncode for p in processes]


def kill(process: subprocess.Popen) -> None:
    """End the process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(options: argparse.Namespace) -> int:
    """Start, wait, report; returns the strongest exit code."""
    received: list[signal.Signals] = []
    for number in FORWARDED:
        signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    processes: list[subprocess.Popen] = []
    try:
        for index in range(options.processes):
            env = environment(index, options=options, port=port)
            processes.append(start(options.command, env=env))
        readers = [
            threading.Thread(target=show, args=(process, f"[{index}]"), daemon=True)
            for index, process in enumerate(processes)
        ]
        for reader in readers:
            reader.start()
        codes = wait(processes, received=received, grace_seconds=options.grace_seconds)
    finally:
        for process in processes:
            if process.returncode is None:  # only after an error of our own
                kill(process)
    for reader in readers:
        reader.join(timeout=5.0)
    code = exits.strongest(codes)
    each = ", ".join(f"[{index}] {code}" for index, code in enumerate(codes))
    print(f"local.py: exit codes {each}; leaving with {code}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """Flags with underscores; a mistake is one line and exit code 64."""

    def __init__(self, **settings: Any) -> None:
        settings["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(exits.BAD_CONFIG, f"{self.prog}: {message}\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, and as `command` what comes after `--`."""
    parser = Parser(prog="local.py", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cpu_devices", type=int, default=0, help="simulated, per process")
    parser.add_argument("--gpus_per_process", type=int, default=0, help="each sees its own")
    parser.add_argument("--grace_seconds", type=float, default=90.0, help="after one has failed")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, start nothing")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.command = arguments[end + 1 :]
    if not options.command:
        parser.error("no program; write: local.py --processes=2 -- python -m clipjax.main …")
    if shutil.which(options.command[0]) is None:
        parser.error(f"{options.command[0]}: no such program")
    if options.processes < 1:
        parser.error(f"--processes={options.processes}: at least 1")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    needed = options.processes * options.gpus_per_process
    if visible and needed > len(visible.split(",")):
        parser.error(f"CUDA_VISIBLE_DEVICES={visible}, but {needed} GPUs are asked for")
    return options


def dry_run(options: argparse.Namespace) -> None:
    """Print what `run` would start."""
    for index in range(options.processes):
        env = environment(index, options=options, port=8476)
        changed = [f"{name}={env[name]}" for name in env if env[name] != os.environ.get(name)]
        print(shlex.join(["env", *changed, *options.command]))


def main() -> int:
    """Parse, then run."""
    options = parse(sys.argv[1:])
    if options.dry_run:
        dry_run(options)
        return exits.DONE
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
