"""Training batches: the same rows whoever makes them, from any position on."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import examples, loader
from tests import processes
from tests.data import fakes

BATCH = 8


def stream(source=None, *, seed=3):
    return examples.TrainExamples(
        source or fakes.FakeSource(captions_each=2, broken=(5,)),
        tokenizer=fakes.FakeTokenizer(),
        image_size=16,
        seed=seed,
    )


def take(count, *, source=None, start=0, **options):
    batches = loader.train_batches(stream(source), start=start, batch_size=BATCH, **options)
    with contextlib.closing(batches):
        return [
            ({k: np.array(v) for k, v in batch.items()}, info)
            for batch, info in itertools.islice(batches, count)
        ]


def assert_same(left, right):
    for part_left, part_right in zip(left, right, strict=True):
        for columns_left, columns_right in zip(part_left, part_right, strict=True):
            assert columns_left.keys() == columns_right.keys()
            for name in columns_left:
                np.testing.assert_array_equal(columns_left[name], columns_right[name])


def joined(hosts):
    """Per-host batches put back together, host after host."""
    return [
        tuple(
            {
                name: np.concatenate([part[which][name] for part in parts])
                for name in parts[0][which]
            }
            for which in (0, 1)
        )
        for parts in zip(*hosts, strict=True)
    ]


def test_batches_have_the_promised_form():
    ((batch, info),) = take(1, start=16)
    assert batch["image"].shape == (BATCH, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].shape == (BATCH, 16) and batch["text"].dtype == np.int32
    assert batch["record_id"].shape == (BATCH,) and batch["record_id"].dtype == np.uint32
    assert all(array.flags.c_contiguous for array in batch.values())
    assert sorted(batch) == ["image", "record_id", "text"]
    assert sorted(info) == ["bad", "bad_key", "cleaned", "key", "position", "source", "truncated"]
    assert info["position"].tolist() == list(range(16, 24))
    assert all(len(column) == BATCH for column in info.values())


def test_batches_are_the_examples_in_order_over_several_epochs():
    examples_ = stream()
    for number, (batch, info) in enumerate(take(12)):  # 96 rows of 40 records
        for row in range(BATCH):
            expected = examples_[number * BATCH + row]
            for name, column in {**batch, **info}.items():
                np.testing.assert_array_equal(column[row], expected[name])
    assert any((info["bad"] != "").any() for _, info in take(12))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_hold_the_rows_of_one_global_batch(hosts):
    whole = take(6)
    parts = [take(6, rows=rows) for rows in np.split(np.arange(BATCH), hosts)]
    assert_same(joined(parts), whole)


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 8])
def test_an_epoch_over_hosts_holds_each_record_once(hosts):
    """100 records in batches of 24: the fifth batch begins the second epoch."""
    records, batch = 100, 24
    made = stream(fakes.FakeSource(length=records))
    keys = {}
    for rows in np.split(np.arange(batch), hosts):
        batches = loader.train_batches(made, start=0, batch_size=batch, rows=rows)
        with contextlib.closing(batches):
            for _, info in itertools.islice(batches, 5):
                for position, key in zip(info["position"].tolist(), info["key"], strict=True):
                    assert position not in keys, "on two hosts"
                    keys[position] = key
    assert sorted(keys) == list(range(5 * batch)), "none is dropped"
    epoch = [keys[position] for position in range(records)]
    assert len(set(epoch)) == records, "each once"
    assert len({keys[position] for position in range(records, 5 * batch)}) == 20


def test_hosts_may_hold_rows_that_are_not_contiguous():
    rows = np.array([1, 4, 6])
    whole = take(3)
    for (batch, info), (all_rows, all_info) in zip(take(3, rows=rows), whole, strict=True):
        np.testing.assert_array_equal(batch["image"], all_rows["image"][rows])
        np.testing.assert_array_equal(info["position"], all_info["position"][rows])


@pytest.mark.parametrize("start", [8, 13, 39, 40, 1_000_003])
def test_any_start_continues_the_same_stream(start):
    examples_ = stream()
    rows = [row for batch, _ in take(3, start=start) for row in batch["record_id"]]
    assert rows == [examples_[start + offset]["record_id"] for offset in range(3 * BATCH)]


@pytest.mark.parametrize(("num_threads", "prefetch"), [(1, 1), (4, 2), (2, 9)])
def test_threads_and_prefetch_change_nothing(num_threads, prefetch):
    assert_same(take(6, num_threads=num_threads, prefetch=prefetch), take(6))


@pytest.mark.parametrize(("num_workers", "prefetch"), [(1, 1), (2, 5)])
def test_workers_and_prefetch_change_nothing_when_a_run_goes_on(num_workers, prefetch):
    """Batches that others made ahead and nobody took are made again, none is left out."""
    rows = np.arange(4, 8)
    first = take(3, start=5, rows=rows, num_workers=num_workers, prefetch=prefetch)
    later = take(4, start=5 + 3 * BATCH, rows=rows, num_workers=0, prefetch=2)
    assert_same([*first, *later], take(7, start=5, rows=rows))
    assert not multiprocessing.active_children()


def test_batches_from_workers_stay_valid():
    """They lie in shared memory, which must live as long as somebody holds the array."""
    batches = loader.train_batches(stream(), start=0, batch_size=BATCH, num_workers=1)
    with contextlib.closing(batches):
        kept = [next(batches)[0]["image"] for _ in range(5)]
    for image, (batch, _) in zip(kept, take(5), strict=True):
        np.testing.assert_array_equal(image, batch["image"])


def unusable():
    return fakes.FakeSource(length=4, broken=(0, 1, 2, 3))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unusable_data_are_an_error_wherever_they_are_read(num_workers):
    with pytest.raises(DataError, match="none usable"):
        take(1, source=unusable(), num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_failed_loader_never_looks_like_the_end(num_workers):
    batches = loader.train_batches(
        stream(unusable()), start=0, batch_size=BATCH, num_workers=num_workers
    )
    with contextlib.closing(batches):
        for _ in range(3):
            with pytest.raises((DataError, RuntimeError)):
                next(batches)


def test_a_worker_killed_for_memory_is_an_error_and_no_hang():
    batches = loader.train_batches(stream(), start=0, batch_size=BATCH, num_workers=2)
    with contextlib.closing(batches):
        next(batches)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError):
            for _ in range(1000):
                next(batches)
    assert not [worker for worker in workers if worker.is_alive()]


def test_close_twice_and_use_after():
    batches = loader.train_batches(stream(), start=0, batch_size=BATCH)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="close"):
        next(batches)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_closing_before_the_first_batch(num_workers):
    loader.train_batches(stream(), start=0, batch_size=BATCH, num_workers=num_workers).close()
    assert not multiprocessing.active_children()


def test_batches_are_made_before_they_are_asked_for():
    made = []

    class Watched:
        def prepare(self, position):
            pass

        def __getitem__(self, position):
            made.append(position)
            return {**dict.fromkeys(loader.DEVICE_FIELDS, np.zeros(1)), "position": position}

    batches = loader.train_batches(Watched(), start=0, batch_size=BATCH, prefetch=2)
    with contextlib.closing(batches):
        deadline = time.monotonic() + 60
        while len(made) < 3 * BATCH and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert sorted(made) == list(range(3 * BATCH))  # the first, and two ahead of it


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


ORPHANS = """
import sys
sys.path[:0] = sys.argv[1:]
import multiprocessing, os, signal
from tests.data import test_loader as t
if __name__ == "__main__":
    batches = t.loader.train_batches(t.stream(), start=0, batch_size=8, num_workers=1)
    next(batches)
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGTERM)  # sent to all processes of a job: must not end the worker
    os.kill(child.pid, signal.SIGINT)
    for _ in range(20):
        next(batches)
    print(child.pid, flush=True)
    os._exit(75)
"""


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at processes through /proc")
def test_workers_outlive_signals_but_not_their_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    paths = [path for path in sys.path if path]
    run = subprocess.run(
        [sys.executable, str(script), *paths],
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )
    assert run.returncode == 75, run.stderr
    worker = int(run.stdout.split()[-1])
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(worker)


def test_worker_set_up_ignores_signals():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        loader.start_worker(0, 1)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
