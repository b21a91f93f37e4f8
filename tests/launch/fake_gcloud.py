"""A `gcloud` that records its arguments, answers from a script, and can play the workers.

Used by the tests of `launch/`: its folder comes first on PATH, so that nothing reaches a cloud.
"""

import atexit
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import pytest

from tests import processes

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"

GCLOUD = """#!{python} -IS
import fcntl, json, os, re, shutil, subprocess, sys
folder = {folder!r}
arguments = sys.argv[1:]
with open(folder + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(folder + "/calls.jsonl", "a") as calls:
        calls.write(json.dumps(arguments) + "\\n")
    with open(folder + "/script.json") as file:
        script = json.load(file)
    for rule in script["rules"]:
        if re.search(rule["match"], " ".join(arguments)):
            answers = rule["answers"]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            break
    else:
        sys.exit("the fake gcloud has no answer to: " + " ".join(arguments))
    with open(folder + "/script.json", "w") as file:
        json.dump(script, file)
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.stdout.flush()
code = answer.get("code", 0)
option = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
homes = script["homes"]
if option.get("worker", "all") != "all":
    homes = homes[int(option["worker"]):][:1]
for home in homes if answer.get("play") else ():
    if "ssh" in arguments:  # as sshd does: one string to a shell that starts in the home
        environment = {{**os.environ, "HOME": home}}
        done = subprocess.run(["bash", "-c", option["command"]], cwd=home, env=environment)
        code = code or done.returncode
    else:  # scp --recurse FOLDER NAME:
        source = arguments[arguments.index("--recurse") + 1]
        shutil.copytree(source, os.path.join(home, os.path.basename(source)), dirs_exist_ok=True)
sys.exit(code)
"""
HOSTNAME = '#!/bin/sh\nbasename "$HOME"\n'
SUDO = "#!/bin/sh\nexit 1\n"  # the machine that runs the tests is left as it is


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git makes what setup sends")


@functools.cache
def commit() -> dict[str, str]:
    """Variables by which git finds a commit of this tree, made here where it is no checkout."""
    if (ROOT / ".git").exists() or shutil.which("git") is None:
        return {}
    folder = tempfile.mkdtemp(prefix="clipjax-tests-git-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variables = {"GIT_DIR": f"{folder}/git", "GIT_WORK_TREE": str(ROOT)}
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.com")
    for command in (
        ["init", "--quiet"],
        ["add", "--all", "."],
        [*identity, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=all"],
    ):
        environment = {**os.environ, **variables}
        subprocess.run(["git", *command], cwd=ROOT, env=environment, check=True)
    return variables


@dataclasses.dataclass(frozen=True)
class FakeCloud:
    """A folder with the fake programs and what they recorded."""

    folder: pathlib.Path

    @property
    def environment(self) -> dict[str, str]:
        """For the processes under test."""
        return {
            **os.environ,
            **commit(),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
        }

    def program(self, name: str, text: str) -> None:
        """Put a program before the machine's own on PATH."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def script(self, *rules: tuple[str, list[dict]], workers: int = 1) -> list[pathlib.Path]:
        """Answers by regular expression, in order, the last one for ever; the workers' homes."""
        homes = [self.folder / f"w-{index}" for index in range(workers)]
        for home in homes:
            home.mkdir(exist_ok=True)
        content = {
            "rules": [{"match": match, "answers": answers} for match, answers in rules],
            "homes": [str(home) for home in homes],
        }
        (self.folder / "script.json").write_text(json.dumps(content))
        return homes

    def calls(self) -> list[list[str]]:
        """The arguments of every call so far."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, *command: str, **options) -> subprocess.CompletedProcess:
        """Run a program of `launch/` to its end."""
        return subprocess.run(
            list(command),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=processes.TIMEOUT,
            **options,
        )


def make(folder: pathlib.Path) -> FakeCloud:
    """A fake cloud in an empty folder."""
    cloud = FakeCloud(folder)
    (folder / "bin").mkdir()
    cloud.program("gcloud", GCLOUD.format(python=sys.executable, folder=str(folder)))
    cloud.program("hostname", HOSTNAME)
    cloud.program("sudo", SUDO)
    cloud.script()
    return cloud
