"""queued_resource.py on a scripted cloud and a clock of our own: journeys, order of calls, ends.

The journeys of `real` go through processes, tpu_vm.sh and a fake gcloud; those of `journey` have
the same answers given inside this process, for speed.
"""

import itertools
import json
import shlex
import shutil
import subprocess
import sys
import types

import pytest

from clipjax.common import exits
from tests.launch import fake_gcloud

sys.path.insert(0, str(fake_gcloud.LAUNCH))

import queued_resource
import tpu_queue

QUEUED = ["compute", "tpus", "queued-resources"]
ZONE = "--zone=us-east5-b"
FLAGS = ["--name=run-1", ZONE, "--type=v6e-16", "--spot", "--backoff_seconds=10"]
PROGRAM = ["--", "--config=configs/vitb32.py", '--workdir=gs://bucket/it\'s a "run" $HOME']
MISSING = {"code": 1, "err": "ERROR: (gcloud) NOT_FOUND: Resource 'run-1' was not found"}
LOST = {"code": 255, "err": "ssh: connect to host: timed out"}
STARTED = ["setup", "setup", "start"]  # copied, installed, started
POLL = ["describe", "node", "state"]
QUICK_STARTED, QUICK_POLL = ["setup", "run"], ["describe", "status"]


def state(name, message=""):
    failed = {"failedData": {"error": {"message": message}}} if message else {}
    return {"out": json.dumps({"state": {"state": name, **failed}})} if name else MISSING


def workers(*told):
    """What `status` prints for workers told as "running 10" or "ended 0 100" (code, step)."""
    lines = []
    for index, words in enumerate(text.split() for text in told):
        names = {"none": (), "running": ("step",), "ended": ("code", "step")}[words[0]]
        pairs = [f"{name}={value}" for name, value in zip(names, words[1:], strict=False)]
        lines.append(" ".join([f"clipjax host=w-{index}", f"state={words[0]}", *pairs]))
    return {"out": "\n".join(lines) + "\n"}


class Journey:
    """A whole life of the launcher in this process: its calls, its sleeps, its exit code."""

    def __init__(self, cloud, capfd):
        self.cloud = cloud
        self.capfd = capfd
        self.sleeps = []
        self.now = 0.0

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds

    def prepare(self, states, told, rules):
        """Answers that are given one after the other, the last one for ever."""
        self.cloud.script(
            *rules,
            ("queued-resources describe", [s if isinstance(s, dict) else state(s) for s in states]),
            ("tpu-vm describe", [{"out": "READY\n"}]),
            ("on_worker state", told),
            ("", [{}]),
        )

    def go(self, states, told, *flags, rules=()):
        self.prepare(states, told, rules)
        options = queued_resource.parse([*FLAGS, *flags, *PROGRAM])
        clock = types.SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.now)
        with pytest.raises(tpu_queue.Stop) as stop:
            queued_resource.supervise(options, clock=clock, jitter=lambda: 1.0)
        self.code = queued_resource.finish(options, stop.value, clock=clock)
        self.printed = self.capfd.readouterr().out
        return self

    @property
    def verbs(self):
        found = []
        for call in self.cloud.calls():
            verb = {"scp": "setup", "describe": "node"}.get(call[3], call[3])
            if call[2] == "queued-resources":
                verb = call[3]
            elif call[3] == "ssh":
                command = next(a for a in call if a.startswith("--command="))
                verb = shlex.split(command.removeprefix("--command="))[3]
            found.append(verb)
        return found

    @property
    def backoffs(self):
        return [seconds for seconds in self.sleeps if seconds != 60.0]


class QuickJourney(Journey):
    """The same without processes: `gcloud` and tpu_vm.sh are functions here."""

    def __init__(self, monkeypatch, capfd):
        super().__init__(None, capfd)
        self.called = []
        monkeypatch.setattr(subprocess, "run", self.gcloud)
        monkeypatch.setattr(tpu_queue, "on_nodes", self.on_nodes)
        monkeypatch.setattr(shutil, "which", lambda name: name)

    def prepare(self, states, told, rules):
        self.answers = {"describe": [s if isinstance(s, dict) else state(s) for s in states]}
        self.answers |= {"status": list(told), **dict(rules)}

    def answer(self, verb):
        answers = self.answers.get(verb, [{}])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return found.get("code", 0), found.get("out", ""), found.get("err", "")

    def gcloud(self, arguments, **_):
        self.called.append(arguments[4])
        return subprocess.CompletedProcess(arguments, *self.answer(arguments[4]))

    def on_nodes(self, options, verb, *flags, capture=False):
        if verb == "check":
            return 0, "v2-alpha-tpuv6e"
        self.called.append(" ".join([verb, *flags]) if verb == "stop" else verb)
        code, printed, _ = self.answer(verb)
        return code, f"clipjax node=run-1 state=READY\n{printed}" if verb == "status" else printed

    @property
    def verbs(self):
        return self.called


@pytest.fixture
def real(tmp_path, monkeypatch, capfd):
    cloud = fake_gcloud.make(tmp_path)
    for name in ("PATH", "TMPDIR", *fake_gcloud.commit()):
        monkeypatch.setenv(name, cloud.environment[name])
    return Journey(cloud, capfd)


@pytest.fixture
def journey(monkeypatch, capfd):
    return QuickJourney(monkeypatch, capfd)


def test_every_exit_code_has_the_verdict_of_its_comment():
    codes = {name: value for name, value in vars(exits).items() if isinstance(value, int)}
    assert set(queued_resource.VERDICTS) == set(codes.values())
    verdicts = {name: queued_resource.VERDICTS[code][0] for name, code in codes.items()}
    assert verdicts == {
        "DONE": "done",
        "BAD_CONFIG": "stop",
        "BAD_DATA": "stop",
        "PEER_FAILURE": "failure",
        "OUT_OF_MEMORY": "stop",
        "CHECKPOINT_IO": "stop",
        "HANG": "failure",
        "DIVERGED": "stop",
        "INTERRUPTED": "stop",
        "PREEMPTED": "preemption",
    }


@fake_gcloud.needs_git
def test_happy_path(real):
    real.go(
        [None, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        [workers("running 10", "running"), workers("ended 0 100", "ended 0")],
    )
    assert real.code == exits.DONE and "the run is complete" in real.printed
    waited = ["describe", "create", "describe", "describe", "describe"]
    assert real.verbs == [*waited, *STARTED, *POLL, *POLL, "delete"]
    calls = real.cloud.calls()
    kind = ["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot"]
    assert calls[0] == [*QUEUED, "describe", "run-1", ZONE, "--format=json(state)"]
    assert calls[1] == [*QUEUED, "create", "run-1", ZONE, "--node-id=run-1", *kind]
    assert calls[-1] == [*QUEUED, "delete", "run-1", ZONE, "--force", "--quiet"]
    (start,) = (c for c in calls if " start " in c[-1])
    assert start[:5] == ["compute", "tpus", "tpu-vm", "ssh", "run-1"]
    assert shlex.split(start[-1])[-2:] == PROGRAM[1:]
    assert real.backoffs == []


@fake_gcloud.needs_git
def test_preempted_twice(real):
    """Once the resource is suspended, once only its node is told preempted."""
    real.go(
        # life 1: created, active, lost; life 2: deleted, created, active, node lost; life 3
        [
            *[None, "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDING"],
            *["SUSPENDING", "SUSPENDED", "ACTIVE", "ACTIVE", "ACTIVE"],
            *[None, "ACTIVE"],
        ],
        [workers("running 10"), workers("ended 0 100")],
        rules=[("tpu-vm describe", [{"out": f"{s}\n"} for s in ("READY", "PREEMPTED", "READY")])],
    )
    assert real.code == exits.DONE
    lost = ["describe", "describe"]  # the poll that sees it, and the look at what is left
    assert real.verbs == [
        *["describe", "create", "describe", *STARTED, *POLL, *lost],
        *["describe", "describe", "delete", "create", "describe", *STARTED],
        *["describe", "node", "describe", "delete"],
        *["describe", "create", "describe", *STARTED, *POLL, "delete"],
    ]
    assert all("--force" in call for call in real.cloud.calls() if call[3] == "delete")
    assert "preemption 2 of 100" in real.printed and "failure" not in real.printed


def test_preempted_and_saved_restarts_on_the_same_machines(journey):
    told = [workers("ended 143 50"), workers("ended 143 50"), workers("ended 0 100")]
    journey.go([None, "ACTIVE"], told)
    assert journey.code == exits.DONE
    again = ["describe", "status", "run"]  # no new request, nothing installed again
    created = ["describe", "create", "describe", *QUICK_STARTED]
    assert journey.verbs == [*created, *QUICK_POLL, *again, *QUICK_POLL, "delete"]


def test_preemption_budget(journey):
    journey.go([None, "ACTIVE"], [workers("ended 143 1")], "--max_preemptions=2")
    assert journey.code == exits.PREEMPTED and journey.verbs.count("run") == 3
    assert "preemption budget of 2 spent" in journey.printed


@fake_gcloud.needs_git
def test_failure_budget(real):
    """Each failure gets further than the one before: no crash loop, but no end either."""
    told = [workers(f"ended {code} {10 * n}") for n, code in enumerate([70, 75, 134]) for _ in "ab"]
    real.go([None, "ACTIVE"], told, "--max_failures=2", "--quick_seconds=0")
    assert real.code == 134, "the code of the last failure"
    assert "failure budget of 2 spent" in real.printed
    assert real.verbs.count("start") == 3 and real.verbs.count("create") == 1
    assert real.verbs[-3:] == ["describe", "logs", "delete"], "the log's end is shown"
    assert real.backoffs == [10.0] * 2, "after progress the wait starts anew"


def test_crash_loop_at_the_same_step(journey):
    once = [*[workers("running 7")] * 6, *[workers("ended 70 7")] * 2]
    journey.go([None, "ACTIVE"], once * 4)
    assert journey.code == exits.PEER_FAILURE and journey.verbs.count("run") == 3
    assert "3 failures in a row, quick or no further than step 7" in journey.printed
    assert journey.backoffs == [10.0, 20.0]


def test_crash_loop_of_quick_failures(journey):
    told = [workers(f"ended 70 {step}") for step in (1, 1, 2, 2, 3, 3)]
    journey.go([None, "ACTIVE"], told)
    assert journey.code == exits.PEER_FAILURE and journey.verbs.count("run") == 3


def test_backoff_grows_and_is_bounded(journey):
    flags = ["--max_preemptions=6", "--backoff_max_seconds=100"]
    journey.go([None, "ACTIVE"], [workers("ended 143")], *flags)
    assert journey.backoffs == [20.0, 40.0, 80.0, 100.0, 100.0, 100.0]


@pytest.mark.parametrize("code", [64, 65, 71, 74, 76, 130])
def test_what_a_restart_cannot_cure(journey, code):
    journey.go([None, "ACTIVE"], [workers(f"ended {code} 3", "ended 70 3")])
    assert journey.code == code and journey.verbs.count("run") == 1
    assert queued_resource.VERDICTS[code][1] in journey.printed
    assert journey.verbs[-2:] == ["logs", "delete"]


def test_the_machine_under_a_failure_was_preempted(journey):
    journey.go(
        [None, "ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"],
        [workers("ended 70 5"), workers("ended 0 100")],
    )
    assert journey.code == exits.DONE
    assert "preemption 1 of 100" in journey.printed and "failure 1" not in journey.printed


def test_workers_that_do_not_answer(journey):
    told = [LOST, LOST, LOST, workers("ended 0 100")]
    journey.go([None, *["ACTIVE"] * 4, None, None, "ACTIVE"], told, "--max_silent_polls=3")
    assert journey.code == exits.DONE and journey.verbs.count("create") == 2
    assert "failure 1 of 5" in journey.printed


def test_a_short_silence_is_nothing(journey):
    journey.go([None, "ACTIVE"], [LOST, workers("running 3"), LOST, workers("ended 0 9")])
    assert journey.code == exits.DONE and journey.verbs.count("create") == 1


def test_stragglers_are_ended(journey):
    stuck = workers("ended 70 3", "running")
    told = [*[stuck] * 17, workers("ended 70 3", "ended 137"), workers("ended 70", "ended 137")]
    journey.go([None, "ACTIVE"], [*told, workers("ended 0 9", "ended 0")])
    assert journey.code == exits.DONE and journey.verbs.count("stop --kill") == 1


def test_started_again_it_follows_the_run(journey):
    journey.go(["ACTIVE"], [workers("running 3", "running"), workers("ended 0 9", "ended 0")])
    assert journey.code == exits.DONE
    assert journey.verbs == ["describe", "status", *QUICK_POLL, "delete"]


def test_a_refused_request(journey):
    journey.go([None, state("FAILED", "q")], [workers("none")], "--keep")
    assert journey.code == exits.PEER_FAILURE and "FAILED: q" in journey.printed
    assert journey.verbs.count("create") == 3 and journey.verbs.count("delete") == 2
    assert "is kept, and billed until: gcloud" in journey.printed


def test_deleted_from_outside(journey):
    journey.go([None, "ACTIVE", None], [workers("running")])
    assert journey.code == exits.INTERRUPTED and journey.verbs.count("create") == 1


def test_gcloud_troubles(journey):
    passing = [{"code": 1, "err": "UNAVAILABLE: try later"}] * 2
    journey.go([None, "ACTIVE"], [workers("ended 0 9")], rules=[("create", [*passing, {}])])
    assert journey.code == exits.DONE and journey.verbs.count("create") == 3
    assert journey.backoffs == [10.0, 20.0]


def test_gcloud_says_it_is_of_no_use(journey):
    denied = [{"code": 1, "err": "PERMISSION_DENIED: tpu.nodes.create"}]
    journey.go([None], [workers("none")], rules=[("create", denied), ("delete", denied)])
    assert journey.code == exits.BAD_CONFIG and "to end the billing: gcloud" in journey.printed


@fake_gcloud.needs_git
def test_several_slices(real):
    real.go([None, "ACTIVE"], [workers("ended 0 9")], "--slices=2", "--project=p-1")
    create = next(call for call in real.cloud.calls() if call[3] == "create")
    assert {"--node-count=2", "--node-prefix=run-1", "--project=p-1"} <= set(create)
    starts = sorted(call[4] for call in real.cloud.calls() if " start " in call[-1])
    assert real.code == exits.DONE and starts == ["run-1-0", "run-1-1"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--name=Run_1", ZONE, "--type=v6e-16", *PROGRAM], "NAME=Run_1"),
        (["--name=run;ls", ZONE, "--type=v6e-16", *PROGRAM], "NAME=run;ls"),
        (["--name=run-1", "--zone=moon", "--type=v6e-16", *PROGRAM], "--zone=moon"),
        (["--name=run-1", ZONE, "--type=a100", *PROGRAM], "--type=a100"),
        (["--name=run-1", ZONE, *PROGRAM], "--type"),
        ([*FLAGS, "--", "--config=x"], "--workdir=gs://"),
        ([*FLAGS, "--", "--workdir=runs/x"], "--workdir=gs://"),
        ([*FLAGS, "--slices=0", *PROGRAM], "--slices=0"),
        ([*FLAGS, "--max_failure=3", *PROGRAM], "--max_failure=3"),
    ],
)
def test_bad_input_is_one_line_and_no_call(tmp_path, flags, told):
    cloud = fake_gcloud.make(tmp_path)
    done = cloud.run(sys.executable, queued_resource.__file__, *flags)
    assert done.returncode == exits.BAD_CONFIG and cloud.calls() == []
    assert told in done.stderr and done.stderr.count("\n") == 1


@fake_gcloud.needs_git
def test_dry_run_makes_no_call(tmp_path):
    cloud = fake_gcloud.make(tmp_path)
    done = cloud.run(sys.executable, queued_resource.__file__, *FLAGS, "--dry_run", *PROGRAM)
    assert done.returncode == exits.DONE and cloud.calls() == []
    commands = [line for line in done.stdout.splitlines() if line.startswith("gcloud ")]
    order = ["create", "scp", "ssh", "ssh", "describe", "ssh", "delete", "create", "delete"]
    assert [shlex.split(line)[4] for line in commands] == order


@fake_gcloud.needs_git
def test_as_a_program(tmp_path):
    """The real clock and process: complete after one preemption, in order, exit code 0."""
    cloud = fake_gcloud.make(tmp_path)
    states = [None, "ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    cloud.script(
        ("queued-resources describe", [state(name) for name in states]),
        ("tpu-vm describe", [{"out": "READY\n"}]),
        ("on_worker state", [workers("running 3"), workers("ended 0 9")]),
        ("", [{}]),
    )
    fast = ["--poll_seconds=0.01", "--backoff_seconds=0.01"]
    done = cloud.run(sys.executable, queued_resource.__file__, *FLAGS, *fast, *PROGRAM)
    assert done.returncode == exits.DONE, done.stdout + done.stderr
    verbs = [call[3] for call in cloud.calls() if call[2] == "queued-resources"]
    kinds = [verb for verb, _ in itertools.groupby(verbs)]
    lives = ["describe", "create", "describe", "delete", "create", "describe", "delete"]
    assert kinds == lives
