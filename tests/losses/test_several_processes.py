"""The losses over two real processes of four devices each."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.devices import xla_flags

SCRIPT = pathlib.Path(__file__).with_name("one_of_several.py")


@pytest.mark.multihost
def test_value_and_gradient_over_two_processes():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": xla_flags(4),
                "PYTHONPATH": str(SCRIPT.parents[2]),
                "CLIPJAX_COORDINATOR": address,
                "CLIPJAX_NUM_PROCESSES": "2",
                "CLIPJAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(*outputs)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
