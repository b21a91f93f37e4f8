"""A program ends as it would have, though nothing that it says can be written."""

import subprocess
import sys

import processes
import pytest
import tiny

from clipjax.common import exits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")


def ended(*arguments):
    """Exit code of `python -m clipjax.main` with its output on a full disk."""
    with open("/dev/full", "w") as full:
        return subprocess.run(
            [sys.executable, "-m", "clipjax.main", *arguments],
            cwd=processes.ROOT,
            stdout=full,
            stderr=full,
        ).returncode


def test_a_bad_setting_keeps_its_exit_code():
    assert ended("--config=tests/tiny.py", "--config.batchsize=3") == exits.BAD_CONFIG


def test_a_run_goes_on(tmp_path):
    workdir = tmp_path / "run"
    total = ("--config.total=3 steps", "--config.checkpoint.every=3 steps")
    assert ended("--config=tests/tiny.py", f"--workdir={workdir}", *total) == exits.DONE
    assert sorted(tiny.values(workdir)) == [1, 2, 3]
