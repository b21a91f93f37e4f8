"""A run of two processes, killed and terminated at random, is the straight run, bit by bit.

    python tests/chaos/test_random_kills.py --kills=50 --terms=20

prints one JSON line: signals sent, exit codes, steps repeated, differences. CI runs 5 and 2.
Compared are every value of every step's line (loss, hash of the records, norms, …) and the digest
of every array of the last checkpoint.
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

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import processes
import tiny

from clipjax.common import exits
from clipjax.training import digest

STEPS = 200
ARGUMENTS = (
    "--config=tests/tiny.py",
    f"--config.total={STEPS} steps",
    "--config.checkpoint.every=4 steps",
)


def start(workdir):
    return processes.start_joined(*ARGUMENTS, f"--workdir={workdir}", count=2, devices=2)


def finish(group) -> list[int]:
    return [processes.finish(process, timeout=120) for process in group]


def digests(workdir) -> dict[str, str]:
    """Of every array of the last checkpoint."""
    return json.loads((workdir / "checkpoints" / str(STEPS) / "run" / "metadata").read_text())[
        "digests"
    ]


def chaos(folder: pathlib.Path, *, kills: int, terms: int, seed: int) -> dict:
    """Signals at random points to a random process until all are spent; then to the end."""
    choose = random.Random(seed)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    choose.shuffle(signals)
    workdir, metrics = folder / "run", folder / "run" / "metrics.jsonl"
    codes: collections.Counter[str] = collections.Counter()
    sent = 0
    for number in signals:
        before = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        group = start(workdir)
        try:
            processes.wait_for_lines(group[0], metrics, before + choose.randint(1, 5))
        except AssertionError:  # it came to the end first
            finish(group)
            break
        process = choose.choice(group)
        if number == signal.SIGKILL:
            processes.kill(process)
        else:
            process.send_signal(number)
        sent += 1
        ends = finish(group)
        print(f"{sent} signals, {before} lines", file=sys.stderr)
        codes.update(f"{signal.Signals(number).name} {code}" for code in ends)
    assert finish(start(workdir)) == [exits.DONE] * 2
    assert finish(start(folder / "straight")) == [exits.DONE] * 2
    found, straight = tiny.values(workdir), tiny.values(folder / "straight")
    lines = [line for line in tiny.lines(workdir) if "train/loss" in line]
    return {
        "seed": seed,
        "signals": sent,
        "ends": dict(codes),
        "steps": len(found),
        "skipped": STEPS - len(found),
        "steps_done_again": len(lines) - len(found),
        "steps_that_differ": sum(found[step] != straight[step] for step in straight),
        "arrays_that_differ": len(digest.differing(digests(workdir), digests(folder / "straight"))),
    }


@pytest.mark.slow
@pytest.mark.multihost
def test_killed_and_terminated(tmp_path):
    found = chaos(tmp_path, kills=5, terms=2, seed=20261124)
    print(json.dumps(found))
    differences = ("skipped", "steps_that_differ", "arrays_that_differ")
    assert not any(found[name] for name in differences), found
    assert found["signals"] == 7, found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/cache"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        given = {"kills": options.kills, "terms": options.terms, "seed": options.seed}
        print(json.dumps(chaos(pathlib.Path(folder), **given)), flush=True)
