"""A program ends as it would have, though nothing that it says can be written."""

import io
import os
import subprocess
import sys

import pytest

from clipjax.common import exits, streams
from tests import processes, tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")

SPEAKS = """
import os, sys
from clipjax.common import cli
def main():
    print("Café 犬 \\udce9", flush=True)
    print("still here", file=sys.stderr, flush=True)
    with open(os.devnull) as file:
        return 7 if file.fileno() < 3 else 0
cli.run(main)
"""


def ended(*arguments):
    """Exit code of `python -m clipjax.main` with its output on a full disk."""
    with open("/dev/full", "w") as full:
        return subprocess.run(
            [sys.executable, "-m", "clipjax.main", *arguments],
            cwd=processes.ROOT,
            stdout=full,
            stderr=full,
        ).returncode


def spoken(redirection, **environment):
    """(exit code, all that can be read) of a small program with streams as a shell gives them."""
    command = f'"{sys.executable}" -c "$0" {redirection}; echo "code ${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command, SPEAKS],
        cwd=processes.ROOT,
        env={**os.environ, **environment},
        capture_output=True,
    )
    told, _, code = (done.stdout + done.stderr).decode().partition("code ")
    return int(code.split()[0]), told + code


def test_a_bad_setting_keeps_its_exit_code():
    assert ended("--config=tests/tiny.py", "--config.batchsize=3") == exits.BAD_CONFIG


@pytest.mark.long
def test_a_run_goes_on(tmp_path):
    workdir = tmp_path / "run"
    total = ("--config.total=3 steps", "--config.checkpoint.every=3 steps")
    assert ended("--config=tests/tiny.py", f"--workdir={workdir}", *total) == exits.DONE
    assert sorted(tiny.values(workdir)) == [1, 2, 3]


def test_a_run_shows_no_line_of_the_libraries_below(tmp_path):
    """gloo tells of its connections on standard output, also of none."""
    flags = ("--config.total=3 steps", "--config.checkpoint.every=3 steps")
    command = [sys.executable, "-m", "clipjax.main", "--config=tests/tiny.py", *flags]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}/run"], cwd=processes.ROOT, capture_output=True, text=True
    )
    assert done.returncode == exits.DONE and "complete" in done.stdout
    assert "gloo" not in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nowhere_and_no_file_takes_their_number(redirection):
    code, told = spoken(redirection)
    assert code == exits.DONE and "Traceback" not in told
    assert ("still here" in told) == ("2>&-" not in redirection)
    assert ("Caf" in told) == (" >&-" not in f" {redirection}")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "utf-8"])
def test_letters_that_an_encoding_lacks_are_escaped(encoding):
    code, told = spoken("", PYTHONIOENCODING=encoding)
    assert code == exits.DONE and r"\udce9" in told
    assert ("Caf\xe9 犬" if encoding == "utf-8" else r"Caf\xe9 \u72ac") in told


def test_output_that_is_lost_is_told_and_has_a_code():
    code, told = spoken(">/dev/full")
    assert code == exits.CHECKPOINT_IO
    assert "clipjax: standard output: cannot be written: No space left on device" in told
    assert "still here" in told and "Traceback" not in told and "ignored" not in told


def test_a_reader_that_leaves_is_no_error():
    code, told = spoken("| true")
    assert code == exits.DONE and "still here" in told
    assert "Traceback" not in told and "ignored" not in told


@pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0), reason="its own import of socket fails in such a folder"
)
def test_a_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f'cd "{tmp_path}/gone" && rmdir ../gone && "{sys.executable}" -c "$0"'
    done = subprocess.run(
        ["bash", "-c", command, SPEAKS],
        env={**os.environ, "PYTHONPATH": str(processes.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exits.BAD_CONFIG
    assert done.stderr.startswith("clipjax: the folder here cannot be read: No such file or direct")
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_a_stream_in_memory_is_left_alone(monkeypatch):
    """As a program's output is caught by another one, or by a notebook."""
    caught = streams.Tolerant(io.StringIO())
    monkeypatch.setattr(sys, "stdout", caught)
    streams.mute_libraries()
    print("said")
    assert sys.stdout is caught and caught.getvalue() == "said\n"
