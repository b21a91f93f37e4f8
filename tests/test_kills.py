"""A run that is killed at any moment goes on as if it never had been."""

import random
import shutil
import signal

import pytest

from clipjax.common import exits
from tests import processes, tiny


def arguments(total: int) -> tuple[str, ...]:
    """Steps slow enough to be interrupted."""
    return (
        "--config=tests/tiny.py",
        f"--config.total={total} steps",
        "--config.batch_size=128",
        "--config.checkpoint.every=5 steps",
    )


def straight(workdir, *, total):
    """The lines of an uninterrupted run."""
    process = processes.start(*arguments(total), f"--workdir={workdir}")
    assert processes.finish(process) == exits.DONE, processes.output(process)
    return tiny.values(workdir)


def interrupted(workdir, *, total, signals, choose):
    """Run to the end through a series of signals, each after a random number of new lines."""
    codes = []
    metrics = workdir / "metrics.jsonl"
    for number in signals:
        process = processes.start(*arguments(total), f"--workdir={workdir}")
        before = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        processes.wait_for_lines(process, metrics, before + choose.randint(1, 6))
        if number == signal.SIGKILL:
            processes.kill(process)
        else:
            process.send_signal(number)
        codes.append(processes.finish(process))
    process = processes.start(*arguments(total), f"--workdir={workdir}")
    codes.append(processes.finish(process))
    assert codes[-1] == exits.DONE, processes.output(process)
    return codes, tiny.values(workdir)


@pytest.mark.long
def test_kill_and_sigterm_and_interrupt(tmp_path):
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    codes, values = interrupted(
        tmp_path / "run", total=50, signals=signals, choose=random.Random(0)
    )
    assert codes == [-9, exits.PREEMPTED, exits.INTERRUPTED, exits.DONE]
    assert sorted(values) == list(range(1, 51)), "a step was skipped"
    assert values == straight(tmp_path / "straight", total=50)


@pytest.mark.slow
def test_ten_random_kills(tmp_path):
    choose = random.Random(20261123)
    signals = [choose.choice([signal.SIGKILL, signal.SIGTERM]) for _ in range(10)]
    codes, values = interrupted(tmp_path / "run", total=600, signals=signals, choose=choose)
    print(f"exit codes {codes}")
    assert sorted(values) == list(range(1, 601)), "a step was skipped"
    assert values == straight(tmp_path / "straight", total=600)


def test_sigterm_saves_where_it_stands(tmp_path):
    workdir = tmp_path / "run"
    process = processes.start(
        *arguments(600), f"--workdir={workdir}", "--config.checkpoint.every=500 steps"
    )
    processes.wait_for_lines(process, workdir / "metrics.jsonl", 3)
    process.send_signal(signal.SIGTERM)
    assert processes.finish(process) == exits.PREEMPTED, processes.output(process)
    last = max(tiny.values(workdir))
    assert (workdir / "checkpoints" / str(last)).is_dir()
    shutil.rmtree(workdir)
