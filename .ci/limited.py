"""Run a command under a clock, and leave nothing of it behind: `limited.py SECONDS COMMAND…`.

Leaves with the command's exit code, or with 124 if the clock cut it off, which first tells it so
with SIGINT. A test that is killed cannot end the processes that it started, some in sessions of
their own; orphans fall to this process (prctl(2), PR_SET_CHILD_SUBREAPER), which ends them.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CUT_OFF = 124  # as timeout(1)
GRACE_SECONDS = 60


def main(seconds: float, command: list[str]) -> int:
    """Run the command to its end or to the clock's; its exit code."""
    if seconds <= 0:
        return CUT_OFF
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    process = subprocess.Popen(command, process_group=0)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        code = CUT_OFF
    finally:
        end_children()
    return 128 - code if code < 0 else code


def end_children() -> None:
    """Kill all descendants: the children of one that has died become this process's own."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


def children() -> list[int]:
    """Process ids of this process's children."""
    pids = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # it has ended meanwhile
        if int(parent) == os.getpid():
            pids.append(int(stat.parent.name))
    return pids


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
