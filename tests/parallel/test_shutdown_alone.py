"""How one process ends: with its code, and without its children, whatever the machine lacks."""

import os
import subprocess
import sys
import time

import pytest

from tests import processes

PROGRAM = """
import subprocess, sys, time
from clipjax.parallel import shutdown
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
shutdown.{end}
"""


@pytest.mark.parametrize(
    ("end", "code"), [("end(65)", 65), ("exit_with(lambda: 0)", 0), ("exit_with(lambda: 1 / 0)", 1)]
)
def test_the_exit_code_survives_a_machine_without_ps(end, code):
    env = {**os.environ, "PATH": "/nowhere"}
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=processes.TIMEOUT
    )
    assert done.returncode == code, done.stderr
    child = int(done.stdout)
    for _ in range(50):  # whoever inherits it takes a moment to bury it
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
