"""Work directories in a bucket: one that answers badly, and one that refuses.

The bucket is `fake_gcs`, in this process; the runs reach it through gcsfs and tensorstore, as they
would Google's (extra `gcs`).
"""

import collections
import json
import re

import pytest

from clipjax.common import exits
from tests import fake_gcs, processes, tiny

pytest.importorskip("gcsfs")
pytestmark = pytest.mark.multihost


@pytest.fixture
def bucket():
    with fake_gcs.serve() as made:
        yield made


def start(bucket, config, *arguments):
    return processes.start(
        *(config, "--workdir=gs://bucket/run", "--config.total=12 steps"),
        *("--config.checkpoint.every=4 steps", *arguments),
        environment=bucket.environment,
    )


def lines(bucket):
    """The steps of metrics.jsonl in the bucket, as `tiny.values` gives those of a folder."""
    found = {}
    for text in bucket.objects.get("run/metrics.jsonl", b"").decode().splitlines():
        line = json.loads(text)
        if "train/loss" in line:
            kept = {k: v for k, v in line.items() if not k.startswith(("perf/", "time/"))}
            assert found.setdefault(line["step"], kept) == kept
    return found


def committed(bucket):
    names = bucket.names("run/checkpoints/")
    return sorted({int(n.split("/")[2]) for n in names if n.endswith("commit_success.txt")})


def test_a_bucket_on_a_bad_day_costs_nothing(bucket, tmp_path):
    """Every fifth request is answered by 503 or 429, and asked again."""
    asked = collections.Counter()

    def faulty(method, name):
        asked[method] += 1
        return (503, 429)[asked[method] // 5 % 2] if asked[method] % 5 == 0 else None

    bucket.faults = faulty
    process = start(bucket, "--config=tests/tiny.py")
    assert processes.finish(process) == exits.DONE, processes.output(process)
    assert len(bucket.refused) > 20 and {status for status, *_ in bucket.refused} == {503, 429}
    bucket.faults = lambda method, name: None
    assert committed(bucket) == [4, 8, 12]
    assert "run/owner.json" not in bucket.objects
    local = tmp_path / "local"
    ended = processes.start(
        *("--config=tests/tiny.py", f"--workdir={local}", "--config.total=12 steps"),
        "--config.checkpoint.every=4 steps",
    )
    assert processes.finish(ended) == exits.DONE
    assert lines(bucket) == tiny.values(local)


def test_a_save_that_is_refused_does_not_stop_training(bucket):
    """What it left behind goes, or it would stand in the way of the same step."""
    bucket.faults = lambda method, name: (
        403 if method == "POST" and name.startswith("run/checkpoints/4/state/ocdbt") else None
    )
    process = start(bucket, "--config=tests/tiny.py")
    processes.wait_for_text(process, "training goes on")
    bucket.faults = lambda method, name: None
    assert processes.finish(process) == exits.DONE, processes.output(process)
    assert committed(bucket) == [8, 12] and not bucket.names("run/checkpoints/4/")
    assert sorted(lines(bucket)) == list(range(1, 13))


def start_two(bucket):
    return processes.start_joined(
        *("--config=tests/tiny.py", "--workdir=gs://bucket/run", "--config.total=12 steps"),
        "--config.checkpoint.every=2 steps",
        **{"count": 2, "devices": 1, "environment": bucket.environment},
    )


def test_a_bucket_that_answers_badly_as_a_save_begins_is_asked_again(bucket):
    """Of two processes, only the lead asks; the other waits for it."""
    asked = collections.Counter()

    def faulty(method, name):
        at_the_start = method == "GET" and name.startswith("run/checkpoints/4")
        asked[name] += at_the_start
        return (503, 429)[asked[name] % 2] if at_the_start and asked[name] <= 2 else None

    bucket.faults = faulty
    group = start_two(bucket)
    codes = [processes.finish(process) for process in group]
    assert codes == [exits.DONE] * 2, "\n".join(map(processes.output, group))
    assert {status for status, *_ in bucket.refused} == {503, 429}
    assert committed(bucket) == [8, 10, 12] and sorted(lines(bucket)) == list(range(1, 13))


def test_a_bucket_that_refuses_every_save_as_it_begins_ends_all_with_74(bucket):
    bucket.faults = lambda method, name: (
        403 if re.fullmatch(r"run/checkpoints/\d+/?", name) else None
    )
    group = start_two(bucket)
    codes = [processes.finish(process) for process in group]
    told = "\n".join(map(processes.output, group))
    assert codes == [exits.CHECKPOINT_IO] * 2, told
    assert told.count("training goes on") == 4 and "3 failures in a row, leaving" in told
