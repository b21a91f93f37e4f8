"""local.py with small programs instead of training: joined, signalled, and none left behind."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from clipjax.common import exits
from tests import processes
from tests.launch import fake_gcloud

LOCAL = str(fake_gcloud.LAUNCH / "local.py")
TELL = "import os; print(*[os.environ['CLIPJAX_' + n] for n in ('COORDINATOR', 'NUM_PROCESSES')])"
INDEX = "import os, signal, sys, time; index = int(os.environ['CLIPJAX_PROCESS_ID'])\n"
SLEEP = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130 if index else 143))
print("pid", os.getpid(), flush=True)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("pid", os.getpid(), flush=True)
while True:
    time.sleep(0.01)
"""


def load():
    spec = importlib.util.spec_from_file_location("local", LOCAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(program, *flags):
    return [sys.executable, LOCAL, *flags, "--", sys.executable, "-ISc", program]


def run(program, *flags):
    return subprocess.run(
        command(program, *flags), capture_output=True, text=True, timeout=processes.TIMEOUT
    )


def test_processes_are_told_how_to_join():
    done = run(TELL, "--processes=3")
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["[0]", "[1]", "[2]"]
    rest = {line.split(" ", 1)[1] for line in lines}
    assert len(rest) == 1 and rest.pop().startswith("127.0.0.1:")


def test_a_child_does_not_tell_to_start_the_others_by_hand(tmp_path):
    local = load()
    options = local.parse(["--processes=2", "--cpu_devices=1", "--", sys.executable])
    join = "from clipjax.parallel import distributed; distributed.initialize(timeout_seconds=1)"
    told = {}
    for index, port in enumerate((8491, 8492)):  # alone: the other never comes
        env = local.environment(index, options=options, port=port) | {"PYTHONPATH": processes.ROOT}
        done = subprocess.run(
            [sys.executable, "-c", join], env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == exits.PEER_FAILURE
        told[index] = [line for line in done.stderr.splitlines() if line.startswith("clipjax: ")]
    for index, lines in told.items():
        assert f"process {index} of 2" in lines[0] and lines[0].endswith("1 s at most")
        assert lines[-1].endswith("the other one did not come in 1 s")


def test_devices():
    local = load()
    options = local.parse(["--processes=2", "--cpu_devices=4", "--", sys.executable])
    env = local.environment(1, options=options, port=1)
    assert env["JAX_PLATFORMS"] == "cpu" and env["CLIPJAX_PROCESS_ID"] == "1"
    assert env["XLA_FLAGS"].endswith("--xla_force_host_platform_device_count=4")
    options = local.parse(["--processes=2", "--gpus_per_process=2", "--", sys.executable])
    assert local.environment(1, options=options, port=1)["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize(
    ("codes", "strongest"),
    [
        ([0, 0], 0),
        ([143, 0], exits.PREEMPTED),
        ([70, 143], exits.PEER_FAILURE),
        ([70, 75, 134], exits.HANG),
        ([75, 71], exits.OUT_OF_MEMORY),
        ([71, 64], exits.BAD_CONFIG),
        ([71, 65], exits.BAD_DATA),
        ([71, 74], exits.CHECKPOINT_IO),
        ([71, 76], exits.DIVERGED),
        ([143, 130], exits.INTERRUPTED),
        ([70, 130], exits.INTERRUPTED),
        ([70, 137, 134], 137),
        ([134, 143], 134),
        ([1, 75], exits.HANG),
    ],
)
def test_strength(codes, strongest):
    assert exits.strongest(codes) == exits.strongest(codes[::-1]) == strongest


def test_strongest_code_wins_and_the_stuck_are_ended():
    program = INDEX + "time.sleep(600 if index == 1 else 0); sys.exit([65, 0, 70][index])"
    done = run(program, "--processes=3", "--grace_seconds=0.3")
    assert done.returncode == 65 and "[0] 65, [1] 137, [2] 70" in done.stderr


def started(process, count):
    """Ids that the programs print."""
    lines = [process.stdout.readline() for _ in range(count)]
    assert all("pid" in line for line in lines), lines
    return [int(line.split()[-1]) for line in lines]


def gone(ids):
    """Whether none of the processes lives on; a zombie is only a number."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", ",".join(map(str, ids))], capture_output=True, text=True
    )
    return all(state.startswith("Z") for state in listed.stdout.split())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, exits.PREEMPTED), (signal.SIGINT, exits.INTERRUPTED), (signal.SIGKILL, -9)],
)
def test_signals_reach_every_process_and_leave_no_orphan(number, code):
    if number == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends children with their parent")
    process = subprocess.Popen(
        command(INDEX + SLEEP, "--processes=2"), stdout=subprocess.PIPE, text=True
    )
    ids = started(process, 4)
    # After -9 it can end its own children only, not what they started.
    expected = [i for i in ids if number != signal.SIGKILL or os.getpgid(i) == i]
    groups = {os.getpgid(i) for i in ids}
    try:
        process.send_signal(number)
        assert process.wait(100) == code
        deadline = time.monotonic() + processes.TIMEOUT
        while not gone(expected):
            assert time.monotonic() < deadline, "an orphan is left"
            time.sleep(0.02)
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--processes=2"], "no program"),
        (["--processes=0", "--", sys.executable], "at least 1"),
        (["--processes=two", "--", sys.executable], "invalid int"),
        (["--", "no-such-program"], "no such program"),
        (["--threads=2", "--", sys.executable], "--threads=2"),
    ],
)
def test_bad_input_is_one_line(arguments, told):
    done = subprocess.run([sys.executable, LOCAL, *arguments], capture_output=True, text=True)
    assert done.returncode == exits.BAD_CONFIG
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_dry_run_starts_nothing(tmp_path):
    done = run(f"open({str(tmp_path / 'x')!r}, 'w')", "--dry_run", "--cpu_devices=2")
    assert done.returncode == 0 and done.stdout.count("CLIPJAX_COORDINATOR=127.0.0.1:") == 2
    assert not (tmp_path / "x").exists()
