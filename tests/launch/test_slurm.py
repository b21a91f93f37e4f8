"""slurm.sbatch with a fake srun and scontrol: what it runs, and what it does with the exit code."""

import signal
import subprocess
import time

import pytest

from tests import processes
from tests.launch import fake_gcloud

SCRIPT = str(fake_gcloud.LAUNCH / "slurm.sbatch")
SRUN = """#!/bin/bash
printf '%s\\0' "$@" >srun.argv
trap 'echo caught >>signals; exit 143' TERM
echo up >running
[[ $CODE != wait ]] || while true; do sleep 0.05; done
exit "$CODE"
"""
SCONTROL = '#!/bin/sh\necho "$@" >>scontrol.argv\n'


@pytest.fixture
def cloud(tmp_path):
    made = fake_gcloud.make(tmp_path)
    made.program("srun", SRUN)
    made.program("scontrol", SCONTROL)
    return made


def environment(cloud, code, **more):
    fixed = {"SLURM_SUBMIT_DIR": str(cloud.folder), "SLURM_JOB_ID": "7", "CODE": str(code)}
    return {**cloud.environment, **fixed, **more}


def submit(cloud, code, *arguments, **more):
    return subprocess.run(
        ["bash", SCRIPT, *(arguments or ["--workdir=/shared/x"])],
        env=environment(cloud, code, **more),
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )


def requeues(cloud):
    path = cloud.folder / "scontrol.argv"
    return path.read_text().splitlines() if path.exists() else []


def test_arguments_arrive(cloud):
    nasty = ['--config.a=it\'s "so" $HOME ; *', "--workdir=/shared/my runs"]
    assert submit(cloud, 0, *nasty).returncode == 0
    words = (cloud.folder / "srun.argv").read_text().split("\0")[:-1]
    assert words[-5:] == ["-u", "-m", "clipjax.main", *nasty]
    assert requeues(cloud) == []


@pytest.mark.parametrize("code", [64, 65, 71, 74, 76, 130])
def test_what_a_restart_cannot_cure(cloud, code):
    assert submit(cloud, code).returncode == code and requeues(cloud) == []


def test_budgets_are_separate(cloud):
    limits = {"MAX_PREEMPTIONS": "2", "MAX_FAILURES": "1", "QUICK_SECONDS": "0"}
    codes = [143, 70, 143, 143]
    done = [submit(cloud, code, **limits).returncode for code in codes]
    assert done == [0, 0, 0, 143] and requeues(cloud) == ["requeue 7"] * 3
    assert submit(cloud, 134, **limits).returncode == 134


def test_three_quick_failures(cloud):
    assert [submit(cloud, 1).returncode for _ in range(3)] == [0, 0, 1]
    assert requeues(cloud) == ["requeue 7"] * 2


def test_sigterm_is_passed_on_and_the_job_requeued(cloud):
    process = subprocess.Popen(
        ["bash", SCRIPT, "--workdir=/shared/x"], env=environment(cloud, "wait")
    )
    deadline = time.monotonic() + processes.TIMEOUT
    while not (cloud.folder / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 0
    assert (cloud.folder / "signals").read_text() == "caught\n"
    assert requeues(cloud) == ["requeue 7"]
    assert (cloud.folder / "clipjax-7.restarts").read_text() == "preemption\n"


def test_dry_run_and_missing_workdir(cloud):
    done = submit(cloud, 0, "--dry_run", "--workdir=/a b")
    assert done.stdout.startswith("srun ") and "--workdir=/a\\ b" in done.stdout
    assert submit(cloud, 0, "--config=x").returncode == 64
    assert not (cloud.folder / "srun.argv").exists()
