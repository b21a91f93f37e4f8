"""Training batches of numpy arrays for this host.

The global batch that starts at position p is positions p to p + B - 1; each host makes the rows
that its devices hold. Nothing here remembers where a run is: a loader is made for a start position
and, after a restart, made again. Called by `clipjax.train`; evaluation has `eval_batches`.
"""

import concurrent.futures
import functools
import os
import signal
import threading
import time
from typing import Any

import numpy as np

from clipjax.common import stacks
from clipjax.data.examples import TrainExamples

DEVICE_FIELDS = ("image", "text", "record_id", "image_id", "text_id")
ENDLESS = 2**62  # batches; a run never gets there
START_SECONDS = 30.0  # longest wait for workers that are still starting when all is closed


class TrainBatches:
    """An endless iterator of (batch, info); `close()` ends its threads and processes.

    batch: {"image": uint8 [b, S, S, 3], "text": int32 [b, T], "record_id": uint32 [b]}, this
    host's rows of the global batch, with the content ids if the examples have them. info:
    {"position", "key", "source", "truncated", "cleaned", "bad", "bad_key"}, arrays [b] as
    in `TrainExamples`, for counters on the host; "bad_detail" too where one of them is known.
    """

    def __init__(self, iterator: Any):
        self._iterator: Any = iterator
        # Grain starts nothing before the first batch is asked for: ask now, so that workers come
        # up while the caller compiles.
        starter = concurrent.futures.ThreadPoolExecutor(1, "first-batch")
        self._first: concurrent.futures.Future[Any] | None = starter.submit(next, iterator)
        starter.shutdown(wait=False)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        if self._iterator is None:
            raise ValueError("data loader: next batch asked for after close()")
        first, self._first = self._first, None
        try:
            rows = next(self._iterator) if first is None else first.result()
        except StopIteration:
            # Grain's worker engine ends this way once a worker has failed; taken as an end of the
            # data it would finish a run early without a word.
            raise RuntimeError("data loader: a worker stopped before the end of training") from None
        batch = {name: np.asarray(rows.pop(name)) for name in DEVICE_FIELDS if name in rows}
        return batch, rows

    def close(self) -> None:
        """Stop prefetching; may wait for the batch that is being made. Safe to call twice."""
        if self._first is not None:
            concurrent.futures.wait([self._first], timeout=START_SECONDS)
            self._first = None
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None  # Grain's destructors complain when left to interpreter exit


def train_batches(
    examples: TrainExamples,
    *,
    start: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    num_workers: int = 0,
    num_threads: int = 2,
    prefetch: int = 2,
) -> TrainBatches:
    """This host's training batches from global position `start` on.

    Rows depend on nothing but `examples` and the position: any split over hosts and any
    `num_workers` give the same ones in the same order.

    Args:
      examples: the training stream.
      start: global position of the first row, the examples already seen; need not be a multiple
        of the batch.
      batch_size: global batch.
      rows: which rows of the global batch this host makes, int [b]; default all. See
        `clipjax.parallel.sharding.local_rows`.
      num_workers: spawned processes, each making whole batches; 0 makes them in threads of this
        process. With workers, the calling program needs an `if __name__ == "__main__"` guard.
      num_threads: threads used when `num_workers` is 0.
      prefetch: batches made ahead, in this process or in each worker.

    Raises:
      DataError: when iterating, if the data are unusable.
    """
    import grain  # imports jax, so only where it is needed

    make = functools.partial(
        make_rows,
        examples=examples,
        start=start,
        batch_size=batch_size,
        rows=np.arange(batch_size) if rows is None else rows,
    )
    # One Grain element is a whole batch: per-element cost is paid once, and what crosses from a
    # worker is a few large arrays in shared memory.
    batches = grain.MapDataset.range(ENDLESS).map(make)
    if num_workers == 0:
        options = grain.ReadOptions(num_threads, prefetch_buffer_size=max(prefetch, num_threads))
        iterator = iter(batches.to_iter_dataset(options))
    else:
        mark_flags_parsed()
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=prefetch)
        iterator = iter(
            batches.to_iter_dataset(options).mp_prefetch(workers, worker_init_fn=start_worker)
        )
    return TrainBatches(iterator)


def make_rows(
    batch_index: int, *, examples: TrainExamples, start: int, batch_size: int, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of these rows of the global batch `batch_index` batches after `start`."""
    first = start + batch_index * batch_size
    examples.prepare(first)
    read = [examples[first + int(row)] for row in rows]
    columns = {name: np.array([row[name] for row in read]) for name in read[0]}
    if not np.any(columns["bad_detail"] != ""):
        del columns["bad_detail"]  # nearly always, and it would go through all queues
    return columns


def mark_flags_parsed() -> None:
    """Let Grain's workers start outside of `absl.app.run` (tests, notebooks, library use)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def start_worker(worker_index: int, worker_count: int) -> None:
    """Set up one worker process: it lives exactly as long as its parent needs it.

    Ctrl-C and SIGTERM are often sent to all processes of a job; the parent still needs batches
    until it has saved. A parent that is gone (killed, or left with os._exit) ends the worker. A
    parent that ends a hang asks for the worker's stacks first.
    """
    del worker_index, worker_count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stacks.answer()
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
