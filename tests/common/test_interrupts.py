"""Ctrl-C ends a program with 130 and without a traceback, from its first import on."""

import signal
import subprocess
import sys

import pytest

from clipjax.common import exits
from tests import processes

WORKS = """
import signal
from clipjax.common import cli
def main():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        print("cleaned up")
cli.run(main)
"""


@pytest.mark.parametrize("imported", ["absl.flags", "ml_collections", "numpy", "jax._src.config"])
def test_while_it_imports(imported, tmp_path):
    """The interpreter says which modules it has imported; at one of them comes the signal."""
    arguments = ("--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}")
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "clipjax.main", *arguments],
        cwd=processes.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == imported:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == exits.INTERRUPTED, rest
    assert "Traceback" not in rest and "KeyboardInterrupt" not in rest


def test_at_work_what_is_open_is_closed():
    done = subprocess.run(
        [sys.executable, "-c", WORKS], cwd=processes.ROOT, capture_output=True, text=True
    )
    assert done.returncode == exits.INTERRUPTED
    assert done.stdout == "cleaned up\n" and done.stderr == "clipjax: interrupted\n"
