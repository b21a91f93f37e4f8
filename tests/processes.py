"""Runs of `python -m clipjax.main` in processes of their own, one or several that join."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from tests.devices import xla_flags

ROOT = pathlib.Path(__file__).parent.parent
TIMEOUT = 500.0  # against hangs, on a busy machine, too; pytest itself gives a test 600


def start(*arguments: str, devices: int = 1, environment: dict[str, str] | None = None):
    """Start one process; its output goes to a file that `output` reads."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        **(environment or {}),
    }
    log = open(_log_path(), "w+b")  # noqa: SIM115 - read after the process has ended
    process = subprocess.Popen(
        [sys.executable, "-m", "clipjax.main", *arguments],
        cwd=ROOT,
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    process.log = log
    return process


def _log_path() -> str:
    import tempfile

    handle, path = tempfile.mkstemp(prefix="clipjax-run-")
    os.close(handle)
    return path


def start_joined(
    *arguments: str, count: int, devices: int, environment: dict[str, str] | None = None
) -> list:
    """Start `count` processes of `devices` each that train together."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return [
        start(
            *arguments,
            devices=devices,
            environment={
                **(environment or {}),
                "CLIPJAX_COORDINATOR": f"127.0.0.1:{port}",
                "CLIPJAX_NUM_PROCESSES": str(count),
                "CLIPJAX_PROCESS_ID": str(index),
            },
        )
        for index in range(count)
    ]


def finish(process, timeout: float = TIMEOUT) -> int:
    """Wait for the end; the exit code. One that does not end is killed, and the test fails."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise AssertionError(f"still running after {timeout} s:\n{output(process)}") from None


def kill(process, signal_number: int = signal.SIGKILL) -> None:
    """Signal the process and all it started."""
    os.killpg(process.pid, signal_number)


def output(process) -> str:
    """What it has printed so far."""
    process.log.flush()
    return pathlib.Path(process.log.name).read_text(errors="replace")


def wait_for_lines(process, path: pathlib.Path, count: int) -> None:
    """Until the file has so many lines; fails if the process ends before."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}:\n{output(process)}")
        time.sleep(0.02)
    kill(process)
    raise AssertionError(f"{path} has no {count} lines after {TIMEOUT} s:\n{output(process)}")


def wait_for_text(process, text: str) -> None:
    """Until it has printed a text; fails if the process ends before."""
    deadline = time.monotonic() + TIMEOUT
    while text not in output(process):
        assert process.poll() is None, f"ended with {process.returncode}:\n{output(process)}"
        assert time.monotonic() < deadline, f"never said {text!r}:\n{output(process)}"
        time.sleep(0.05)
