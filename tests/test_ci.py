"""CI's own rules: a hang fails, nothing is left running, and the clock cuts off."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import processes

CI = processes.ROOT / ".ci"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl and /proc")

HANGING = """
import ctypes, subprocess, sys

def test_before(): pass

def test_hangs_in_c_with_the_lock():
    code = "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    print(child.pid, file=open("child", "w"))
    ctypes.PyDLL(None).pause()

def test_after(): pass
"""


def limited(seconds, *command, folder):
    return subprocess.run(
        [sys.executable, str(CI / "limited.py"), str(seconds), *command],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_XDIST_WORKER": ""},
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )


def alive(pid: int) -> bool:
    return pathlib.Path(f"/proc/{pid}").exists()


def test_a_hang_in_c_fails_and_leaves_no_child(tmp_path):
    """With this project's settings of pytest, but for the seconds."""
    (tmp_path / "test_hanging.py").write_text(HANGING)
    settings = re.sub(
        r"faulthandler_timeout = \d+",
        "faulthandler_timeout = 5",
        (processes.ROOT / "pyproject.toml").read_text(),
    )
    (tmp_path / "pyproject.toml").write_text(settings.replace("-n auto", "-n 2"))
    ended = limited(200, sys.executable, "-m", "pytest", "test_hanging.py", folder=tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "FAILED test_hanging.py::test_hangs_in_c_with_the_lock" in ended.stdout
    assert "1 failed, 2 passed" in ended.stdout
    assert not alive(int((tmp_path / "child").read_text()))


def test_the_clock_ends_all_that_was_started(tmp_path):
    script = "setsid sleep 600 & echo $! >child; sleep 600"
    ended = limited(1, "bash", "-c", script, folder=tmp_path)
    assert ended.returncode == 124
    assert not alive(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_codes_are_the_commands(tmp_path, command, code):
    assert limited(100, "bash", "-c", command, folder=tmp_path).returncode == code


def functions() -> str:
    """The functions of `.ci/run`, without what it does with them."""
    text = (CI / "run").read_text()
    return text[text.index("notes=") : text.index("# A slip of style")]


def run_stages(stages: str, *, folder, end: int = 1000):
    (folder / ".ci").mkdir()
    (folder / ".ci/limited.py").write_text((CI / "limited.py").read_text())
    script = f"set -Eeuo pipefail; END={end}\n{functions()}\n{stages}\n((${{#failed[@]}} == 0))"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )


FLAKY = """
import pathlib

def test_the_second_time():
    seen = pathlib.Path("seen")
    if not seen.exists():
        seen.write_text("")
        assert False

def test_fine(): pass
"""


def test_what_passes_only_the_second_time_is_listed(tmp_path):
    (tmp_path / "test_flaky.py").write_text(FLAKY)
    ended = run_stages("required flaky pytest -p no:xdist -q test_flaky.py", folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    line = "passed only when asked again: flaky: test_flaky.py::test_the_second_time"
    assert line in ended.stdout.splitlines()
    assert ended.stdout.count("asked again") == 1


def test_what_fails_twice_fails(tmp_path):
    (tmp_path / "test_wrong.py").write_text("def test_wrong(): assert False")
    ended = run_stages("required wrong pytest -p no:xdist -q test_wrong.py", folder=tmp_path)
    assert ended.returncode == 1
    assert "FAILED: wrong" in ended.stdout and "asked again" not in ended.stdout


def test_only_reported_stages_may_be_cut_off(tmp_path):
    ended = run_stages("reported slow 600 sleep 600", folder=tmp_path, end=119)
    assert ended.returncode == 0 and "reported only: slow: no time left" in ended.stdout


def test_a_required_stage_that_is_cut_off_fails(tmp_path):
    ended = run_stages("required slow sleep 600\nrequired next true", folder=tmp_path, end=2)
    assert ended.returncode == 1
    assert "FAILED: slow" in ended.stdout and "FAILED: next" in ended.stdout


def test_ci_calls_the_command_of_the_readme():
    readme = (processes.ROOT / "README.md").read_text()
    (command,) = re.findall(r"^    (python3 -m venv .*\.\[test\].*pytest)$", readme, re.MULTILINE)
    assert f"'{command}'" in (CI / "run").read_text()
