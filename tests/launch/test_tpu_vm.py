"""tpu_vm.sh against a fake gcloud: exact arguments, no call on bad input, and its worker side
run for real, with a stand-in for Python.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import processes
from tests.launch import fake_gcloud

SCRIPT = str(fake_gcloud.LAUNCH / "tpu_vm.sh")
TPU_VM = ["compute", "tpus", "tpu-vm"]
ON_WORKER = "bash clipjax-upload/tpu_vm.sh on_worker"
IDENTITY = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
NASTY = ['--config.a=it\'s "so" $HOME `id` $(id) ; rm -rf * \\ | & #é', "a\nb\tc", "", "--x=~ !"]

UV = """#!/bin/bash
echo "$@" >>"$HOME/uv.log"
[[ $1 != venv ]] || { mkdir -p .venv/bin; cp "$STAND_IN" .venv/bin/python; }
"""
STAND_IN = """#!{python} -IS
import json, os, signal, sys, time
if sys.argv[1] == "-c":
    sys.exit(0)
with open(os.environ["HOME"] + "/argv.json", "w") as file:
    json.dump(dict(argv=sys.argv[1:], key=os.environ.get("KEY"), folder=os.getcwd()), file)
if "--fail" in sys.argv:
    sys.exit(65)
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
sys.stderr.write("  1%|#         | 12/1000 [00:01<00:10,  1.0step/s]\\r")
if os.fork() == 0:  # a loader process that would outlive an abrupt end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.fixture
def cloud(tmp_path):
    return fake_gcloud.make(tmp_path)


def tpu_vm(cloud, *arguments):
    return cloud.run("bash", SCRIPT, *arguments)


def test_create_and_delete_argv(cloud):
    cloud.script(("create|delete", [{}]))
    done = tpu_vm(cloud, "create", "my-tpu", "--zone=us-east5-b", "--type=v6e-16", "--spot")
    assert done.returncode == 0, done.stderr
    assert "delete my-tpu" in done.stderr, "what ends the billing is said when it begins"
    flags = ["--create_flag=--network=x y", "--project=p-1", "--version=v2-alpha"]
    tpu_vm(cloud, "create", "my-tpu", "--zone=us-east5-b", "--type=v4-8", *flags)
    tpu_vm(cloud, "delete", "my-tpu", "--zone=us-east5-b")
    zone = "--zone=us-east5-b"
    create = [*TPU_VM, "create", "my-tpu", zone]
    assert cloud.calls() == [
        [*create, "--accelerator-type=v6e-16", "--version=v2-alpha-tpuv6e", "--spot"],
        [
            *create,
            "--project=p-1",
            "--accelerator-type=v4-8",
            "--version=v2-alpha",
            "--network=x y",
        ],
        [*TPU_VM, "delete", "my-tpu", zone, "--quiet"],
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "My_TPU", "--zone=us-east5-b", "--type=v6e-16"], "NAME=My_TPU"),
        (["create", "a;reboot", "--zone=us-east5-b", "--type=v6e-16"], "NAME=a;reboot"),
        (["create", "--spot", "--zone=us-east5-b"], "a NAME comes after"),
        (["create", "a", "--type=v6e-16"], "--zone"),
        (["create", "a", "--zone=us-east5", "--type=v6e-16"], "us-east5-b"),
        (["create", "a", "--zone=us-east5-b", "--type=v5e-16"], "v5litepod-16"),
        (["create", "a", "--zone=us-east5-b", "--type=h100-8"], "--type=h100-8"),
        (["create", "a", "--zone=us-east5-b"], "--type"),
        (["status", "a", "--zone=us-east5-b", "--worker=0,1"], "--worker"),
        (["setup", "a", "--zone=us-east5-b", "--repo=https://me:secret@github.com/x"], "--repo"),
        (["setup", "a", "--zone=us-east5-b", "--env_file=/no/such"], "no such file"),
        (["setup", "a", "--zone=us-east5-b", "--ref=main"], "--repo=https://"),
        (["run", "a", "--zone=us-east5-b"], "nothing to run"),
        (["run", "a", "--zone=us-east5-b", "--config=x"], "after --"),
        (["stopp", "a", "--zone=us-east5-b"], "no such command"),
    ],
)
def test_bad_input_is_one_line_and_no_call(cloud, arguments, told):
    done = tpu_vm(cloud, *arguments)
    assert done.returncode == 64
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert cloud.calls() == []


@fake_gcloud.needs_git
def test_dry_run_makes_no_call(cloud):
    before = set(cloud.folder.iterdir())
    common = ["my-tpu", "--zone=us-east5-b", "--type=v5litepod-16", "--dry_run"]
    for command in ("create", "setup", "status", "logs", "attach", "stop", "delete"):
        done = tpu_vm(cloud, command, *common)
        assert done.returncode == 0 and "gcloud compute tpus tpu-vm" in done.stdout, done.stderr
    done = tpu_vm(cloud, "run", *common, "--", *NASTY)
    assert cloud.calls() == [] and set(cloud.folder.iterdir()) == before
    cloud.script(("ssh", [{}]))
    cloud.run("bash", "-c", done.stdout)  # what is printed can be pasted
    tpu_vm(cloud, "run", *common[:2], "--", *NASTY)
    pasted, called = ([without_token(word) for word in call] for call in cloud.calls())
    assert pasted == called


@fake_gcloud.needs_git
@pytest.mark.parametrize(
    ("program", "told"),
    [
        (["--config=configs/vitb32.py", "--workdir=gs://bucket/run"], []),
        (["--config=figure2:words", "--workdir=/shared/run"], []),
        (["--config=configs/figure2.py:words", "--workdir", "s3://bucket/run"], []),
        (["--config=vitb32", "--workdir=runs/a"], ["--workdir=runs/a"]),
        (["--config", "vitb32", "--workdir", "~/a b"], [r"--workdir=\~/a\ b: "]),
        (["--config=configs/vitb32.py"], ["--workdir=runs/vitb32: "]),
        (["--config=/home/me/mine.py", "--workdir=gs://bucket/run"], ["--config=/home/me/mine.py"]),
        (["--config=configs/mine.py:x", "--workdir=gs://b/r"], ["--config=configs/mine.py:x"]),
        (["--config=../mine.py", "--workdir=runs/a"], ["--workdir=runs/a", "--config=../mine.py"]),
    ],
)
def test_what_workers_lack_or_lose_is_told_in_a_line_each(cloud, program, told):
    cloud.script(("ssh", [{}]))
    for more in ([], ["--dry_run"]):
        done = tpu_vm(cloud, "run", "a", "--zone=us-east5-b", *more, "--", *program)
        assert done.returncode == 0
        lines = done.stderr.splitlines()
        assert len(lines) == len(told), lines
        for line, words in zip(lines, told, strict=True):
            assert line.startswith(f"tpu_vm.sh: {words}")
    assert len(cloud.calls()) == 1, "the run is started all the same"


def test_another_program_than_training_has_no_default_work_directory(cloud):
    cloud.script(("ssh", [{}]))
    flags = ["--zone=us-east5-b", "--module=clipjax.evaluate", "--dry_run"]
    suite = ["--weights=gs://b/w", "--suite=paper27"]
    done = tpu_vm(cloud, "run", "a", *flags, "--", *suite)
    assert done.returncode == 0 and done.stderr == ""
    done = tpu_vm(cloud, "run", "a", *flags, "--", *suite, "--output=results")
    assert done.stderr.startswith("tpu_vm.sh: --output=results: on the own disk of each worker")


@fake_gcloud.needs_git
def test_setup_names_what_is_not_committed(cloud, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(fake_gcloud.LAUNCH, checkout / "launch")
    commands = (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-q", "-m=x"])
    outside = ["env", "-u", "GIT_DIR", "-u", "GIT_WORK_TREE"]
    for command in commands:
        subprocess.run([*outside, "git", *command], cwd=checkout, check=True)
    setup = ["bash", str(checkout / "launch" / "tpu_vm.sh"), "setup", "a", "--zone=us-east5-b"]
    assert cloud.run(*outside, *setup, "--dry_run").stderr == ""
    for number in range(9):
        (checkout / f"mine{number}.py").touch()
    done = cloud.run(*outside, *setup, "--dry_run")
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "not these changes: mine0.py mine1.py" in done.stderr and "mine8" not in done.stderr


def without_token(word):
    return re.sub(r"start \d+-\d+", "start TOKEN", word)


def remote_command(arguments):
    """The --command=… of a call."""
    (text,) = (a.removeprefix("--command=") for a in arguments if a.startswith("--command="))
    return text


def test_nasty_arguments_survive_both_shells(cloud):
    cloud.script(("ssh", [{}]))
    assert tpu_vm(cloud, "run", "a", "--zone=us-east5-b", "--", *NASTY).returncode == 0
    (call,) = cloud.calls()
    command = remote_command(call)
    # gcloud splits at spaces, ssh joins with spaces, the worker's shell reads it again.
    command = " ".join(command.split(" ")).replace(ON_WORKER, "printf '%s\\0'", 1)
    words = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    start, token, module, *rest = words.decode().split("\0")[:-1]
    assert (start, module, rest) == ("start", "clipjax.main", NASTY) and token


def unpacked(folder):
    """The launch files where no commit holds them: within a checkout of something else."""
    for command in (["init", "-q"], [*IDENTITY, "commit", "-q", "--allow-empty", "-m=x"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    shutil.copytree(fake_gcloud.ROOT / "clipjax/common", folder / "clipjax/common")
    return shutil.copytree(fake_gcloud.LAUNCH, folder / "launch")


@fake_gcloud.needs_git
@pytest.mark.parametrize("program", ["tpu_vm.sh", "queued_resource.py"])
def test_without_a_commit_to_send_a_repository_is_asked_for(cloud, tmp_path, program):
    """Before anything is requested or billed; the advice, followed, works."""
    (tmp_path / "unpacked").mkdir()
    script = unpacked(tmp_path / "unpacked") / program
    command = ["bash", str(script), "setup", "a", "--zone=us-east5-b"]
    rest = []
    if program == "queued_resource.py":
        command = [sys.executable, str(script), "--name=a", "--zone=us-east5-b", "--type=v6e-16"]
        rest = ["--", "--config=vitb32", "--workdir=gs://bucket/run"]
    outside = ["env", "-u", "GIT_DIR", "-u", "GIT_WORK_TREE"]
    done = cloud.run(*outside, *command, *rest)
    assert done.returncode == 64 and done.stderr.count("\n") == 1 and cloud.calls() == []
    assert f"no commit of {tmp_path / 'unpacked'}" in done.stderr
    advice = ["--repo=https://github.com/you/clipjax", "--ref=v1"]
    assert all(flag.split("=")[0] in done.stderr for flag in advice)
    done = cloud.run(*outside, *command, *advice, "--dry_run", *rest)
    assert done.returncode == 0 and cloud.calls() == [], done.stderr
    assert "https://github.com/you/clipjax v1" in done.stdout.replace("\\", "")


def wait(condition, what):
    deadline = time.monotonic() + processes.TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@fake_gcloud.needs_git
def test_a_life_on_two_workers(cloud):
    """setup, run, status, a repeated start, logs, stop; the code and environment are in place."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the worker side needs Linux")
    homes = cloud.script(
        ("describe", [{"out": "READY\n"}]), ("ssh|scp", [{"play": True}]), workers=2
    )
    stand_in = cloud.folder / "stand_in"
    cloud.program("uv", UV.replace("$STAND_IN", str(stand_in)))
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o700)
    env_file = cloud.folder / "secrets"
    env_file.write_text("KEY=canary\n")
    where = ["a", "--zone=us-east5-b"]
    done = tpu_vm(cloud, "setup", *where, f"--env_file={env_file}")
    assert done.returncode == 64 and "chmod 600" in done.stderr and cloud.calls() == []
    env_file.chmod(0o600)
    for home in homes:
        (home / "clipjax" / "runs").mkdir(parents=True)
        (home / "clipjax" / "stale.py").touch()

    done = tpu_vm(cloud, "run", *where, "--", "--x=1")
    assert done.returncode != 0, "not set up yet"
    for _ in range(2):  # it may be repeated
        done = tpu_vm(cloud, "setup", *where, f"--env_file={env_file}")
        assert done.returncode == 0, done.stderr
    for home in homes:
        assert (home / "clipjax" / "setup.cfg").is_file()
        assert (home / "clipjax" / "runs").is_dir(), "local runs stay"
        assert not (home / "clipjax" / "stale.py").exists(), "old code goes"
        assert not (home / "clipjax-upload" / "env").exists()
        assert (home / "clipjax-run" / "env").stat().st_mode & 0o77 == 0
        log = (home / "uv.log").read_text().splitlines()
        assert log[0] == "venv --quiet --python 3.12 .venv"
        assert [line.split()[-1] for line in log[1:]] == [".[tpu,gcs]"] * 2

    try:
        done = tpu_vm(cloud, "run", *where, "--", *NASTY)
        assert done.returncode == 0, done.stderr
        for home in homes:
            wait((home / "argv.json").exists, "the program did not start")
        for home in homes:
            wait(lambda home=home: "12/1000" in log_of(home), "no progress in the log")
            seen = json.loads((home / "argv.json").read_text())
            assert seen["argv"] == ["-u", "-m", "clipjax.main", *NASTY]
            assert seen["key"] == "canary" and seen["folder"] == str(home / "clipjax")
        status = tpu_vm(cloud, "status", *where).stdout.splitlines()
        assert status == [
            "clipjax node=a state=READY",
            *[f"clipjax host=w-{index} state=running step=12" for index in (0, 1)],
        ]
        again = tpu_vm(cloud, "run", *where, "--", "--x=1")
        assert again.returncode == 64 and "a run is alive" in again.stderr
        # gcloud repeats a command whose connection broke: the same token starts nothing.
        starts = [c for c in cloud.calls() if " on_worker start " in c[-1] and "so" in c[-1]]
        repeated = cloud.run(*["gcloud", *starts[0]])
        assert repeated.returncode == 0 and log_of(homes[0]).count("=== clipjax run") == 1
        assert tpu_vm(cloud, "setup", *where).returncode == 64, "not under a living run"
        assert "12/1000" in tpu_vm(cloud, "logs", *where).stdout
        attached = subprocess.Popen(
            ["bash", SCRIPT, "attach", *where],
            env=cloud.environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert "=== clipjax run" in attached.stdout.readline().decode()
        for _ in range(20):  # Ctrl-C leaves the run alone; one that meets a starting shell is lost
            os.killpg(attached.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                attached.wait(1)
                break
        assert attached.returncode is not None
        attached.stdout.close()
        assert tpu_vm(cloud, "status", *where).stdout.count("state=running") == 2
    finally:
        done = tpu_vm(cloud, "stop", *where)
    lines = [f"clipjax host=w-{index} state=ended code=130 step=12" for index in (0, 1)]
    assert done.stdout.splitlines() == lines, done.stderr
    for home in homes:
        leader = (home / "clipjax-run" / "supervisor").read_text().strip()
        wait(lambda leader=leader: not members(leader), "an orphan is left")
    assert "canary" not in json.dumps(cloud.calls())

    tpu_vm(cloud, "run", *where, "--", "--fail")
    wait(lambda: "code=65" in tpu_vm(cloud, "status", *where).stdout, "the code was not noted")
    attached = tpu_vm(cloud, "attach", *where)
    assert "state=ended code=65\n" in attached.stdout, "the step of the run before is forgotten"
    (homes[0] / "clipjax-run" / "supervisor").write_text(f"{os.getpid()}\n")
    attached = tpu_vm(cloud, "attach", *where)  # an id that is used again is not waited for
    assert attached.stdout.endswith("state=ended code=65\n")

    tpu_vm(cloud, "run", *where, "--", "--x=1")
    done = tpu_vm(cloud, "stop", *where, "--kill")
    assert done.stdout.count("state=ended code=137") == 2, done.stderr
    for home in homes:
        leader = (home / "clipjax-run" / "supervisor").read_text().strip()
        wait(lambda leader=leader: not members(leader), "an orphan is left")


def log_of(home):
    return (home / "clipjax-run" / "log").read_text()


def members(group):
    """Ids of the living processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,pid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [pid for pgid, pid, state in rows if pgid == group and not state.startswith("Z")]


def test_a_preempted_node_is_told_without_ssh(cloud):
    cloud.script(("describe", [{"out": "PREEMPTED\n"}]))
    done = tpu_vm(cloud, "status", "a", "--zone=us-east5-b")
    assert done.returncode == 0 and done.stdout == "clipjax node=a state=PREEMPTED\n"
    assert len(cloud.calls()) == 1
