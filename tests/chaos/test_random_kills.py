"""A run of two processes, killed and terminated at random, is the straight run, bit by bit.

    python tests/chaos/test_random_kills.py --kills=50 --terms=20

prints one JSON line: signals sent, where they struck, exit codes, seconds from signal to end, steps
repeated, differences. CI runs 5 and 2. A signal is aimed in turn at the start (imports, joining,
restoring), at compilation, at a step, at an evaluation and at a save (`--aims` names fewer), and
sent to one of the processes or to both; SIGTERM also twice. Compared are every value of every
step's line (loss, hash of the records, norms, …), every evaluation and the digest of every array of
the last checkpoint.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from clipjax.common import exits
from clipjax.training.checkpoint import digest
from clipjax.training.checkpoint import manage as checkpoint_manager
from tests import processes, tiny
from tests.chaos import faults

STEPS, SAVE_EVERY, EVALUATE_EVERY = 200, 4, 6
AIMS = ("save", "start", "evaluation", "compile", "step")
SETTINGS = f"""
    from clipjax import config
    c.total = "{STEPS} steps"
    c.checkpoint.every = "{SAVE_EVERY} steps"
    c.evals.held_out = config.evaluator(
        "retrieval", every="{EVALUATE_EVERY} steps", max_examples=64)
    c.join_seconds = 40
"""


class Ended(Exception):
    """The run came to its end before the signal."""


def start(config, workdir):
    return processes.start_joined(config, f"--workdir={workdir}", count=2, devices=2)


def unfinished(workdir) -> list[pathlib.Path]:
    """Folders of saves that were not completed."""
    return list((workdir / "checkpoints").glob(f"*{checkpoint_manager.UNFINISHED}*"))


def wait_until(group, reached) -> None:
    """Until `reached()`; Ended where the processes end before."""
    while not reached():
        if all(process.poll() == exits.DONE for process in group):
            raise Ended
        ended = [process.poll() for process in group]
        assert set(ended) <= {None, exits.DONE}, processes.output(group[0])
        time.sleep(0.002)


def wait_for(aim, group, workdir, choose) -> None:
    """Until the run is where the signal shall strike it."""
    metrics = workdir / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0

    def new_lines() -> list[dict]:
        with open(metrics, "rb") if metrics.exists() else open(os.devnull, "rb") as file:
            file.seek(size)
            return [json.loads(line) for line in file if line.endswith(b"\n")]

    def steps() -> list[int]:
        return [line["step"] for line in new_lines() if "train/loss" in line]

    if aim == "start":
        time.sleep(choose.uniform(0.0, 8.0))
    elif aim == "compile":
        wait_until(group, lambda: "parameters" in processes.output(group[0]))
        time.sleep(choose.uniform(0.0, 2.0))
    elif aim == "step":
        count = choose.randint(1, 5)
        wait_until(group, lambda: len(steps()) >= count)
    elif aim == "evaluation":
        wait_until(group, lambda: any(step % EVALUATE_EVERY == 0 for step in steps()))
        time.sleep(choose.uniform(0.0, 0.1))
    else:
        left_before = set(unfinished(workdir))
        wait_until(group, lambda: steps() and set(unfinished(workdir)) - left_before)
        time.sleep(choose.choice([0.0, 0.01, 0.03]))


def strike(number, group, choose) -> str:
    """Send the signal to one process or to all, SIGTERM perhaps twice: which it was."""
    struck = choose.choice([group[:1], group[1:], group])
    for process in struck:
        process.send_signal(number) if number == signal.SIGTERM else processes.kill(process)
    if number == signal.SIGTERM and choose.random() < 0.5:
        time.sleep(0.1)
        for process in struck:
            process.send_signal(number)
    return "both" if struck is group else f"process {group.index(struck[0])}"


def digests(workdir) -> dict[str, str]:
    """Of every array of the last checkpoint."""
    return json.loads((workdir / "checkpoints" / str(STEPS) / "run" / "metadata").read_text())[
        "digests"
    ]


def evaluations(workdir) -> dict[int, dict]:
    """Step → what was evaluated; done twice, it must be the same."""
    found: dict[int, dict] = {}
    for line in tiny.lines(workdir):
        values = {key: value for key, value in line.items() if key.startswith("eval/")}
        if values:
            assert found.setdefault(line["step"], values) == values, f"step {line['step']} changed"
    return found


def finish(group, timeout=120.0) -> list[int]:
    return [processes.finish(process, timeout=timeout) for process in group]


def chaos(folder: pathlib.Path, *, kills: int, terms: int, seed: int, aims=AIMS) -> dict:
    """Signals to a running program until all are spent; then to the end."""
    choose = random.Random(seed)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    choose.shuffle(signals)
    config = faults.config(folder, settings=SETTINGS.strip())
    workdir = folder / "run"
    ends: collections.Counter[str] = collections.Counter()
    seconds = collections.defaultdict(list)
    sent: collections.Counter[str] = collections.Counter()
    within_saves = 0
    for index, number in enumerate(signals):
        aim = aims[index % len(aims)]
        group = start(config, workdir)
        try:
            wait_for(aim, group, workdir, choose)
        except Ended:
            finish(group)
            break
        name = signal.Signals(number).name
        struck, began = strike(number, group, choose), time.monotonic()
        codes = finish(group)
        took = time.monotonic() - began
        sent[f"{name} at {aim}"] += 1
        ends[f"{name} {codes}"] += 1
        seconds[f"{name} at {'start' if aim == 'start' else 'work'}"].append(took)
        within_saves += bool(unfinished(workdir))
        print(
            f"{sum(sent.values())}: {name} at {aim} to {struck}: {codes}, {took:.1f} s",
            file=sys.stderr,
        )
        if number == signal.SIGTERM and aim not in ("start", "compile"):
            # At its last step it is complete before it hears of it.
            assert codes in ([exits.PREEMPTED] * 2, [exits.DONE] * 2), processes.output(group[0])
    for run in (workdir, folder / "straight"):
        assert finish(start(config, run), timeout=600.0) == [exits.DONE] * 2
    found, straight = tiny.values(workdir), tiny.values(folder / "straight")
    lines = [line for line in tiny.lines(workdir) if "train/loss" in line]
    return {
        "seed": seed,
        "signals": sum(sent.values()),
        "sent": dict(sent),
        "ends": dict(ends),
        "slowest_end_seconds": {name: round(max(took), 1) for name, took in seconds.items()},
        "saves_cut_short": within_saves,
        "unfinished_left": len(unfinished(workdir)),
        "put_aside": len(list(workdir.glob("damaged/*"))),
        "steps": len(found),
        "skipped": STEPS - len(found),
        "steps_done_again": len(lines) - len(found),
        "steps_that_differ": sum(found[step] != straight[step] for step in straight),
        "evaluations_that_differ": evaluations(workdir) != evaluations(folder / "straight"),
        "arrays_that_differ": len(digest.differing(digests(workdir), digests(folder / "straight"))),
    }


@pytest.mark.slow
@pytest.mark.multihost
def test_killed_and_terminated(tmp_path):
    found = chaos(tmp_path, kills=5, terms=2, seed=20261124)
    print(json.dumps(found))
    for name in (
        "skipped",
        "steps_that_differ",
        "evaluations_that_differ",
        "arrays_that_differ",
        "unfinished_left",
        "put_aside",
    ):
        assert not found[name], found
    assert found["signals"] == 7, found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--aims", default=",".join(AIMS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        given = {"kills": options.kills, "terms": options.terms, "seed": options.seed}
        found = chaos(pathlib.Path(folder), aims=options.aims.split(","), **given)
        print(json.dumps(found), flush=True)
