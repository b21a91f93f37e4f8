"""Pure functions of chunks of work, spread over processes, with results in order.

Every verb of `clipjax.dataset` that reads many records goes through `results`.
"""

import collections
import contextlib
import multiprocessing
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from clipjax.common import files
from clipjax.common.exits import CleanExit
from clipjax.data.loader import mark_flags_parsed

AHEAD = 4  # chunks a worker has waiting
PATIENCE = 5.0  # seconds between looks whether workers live


def results(
    function: Callable[[Any], Any],
    chunks: Sequence[Any],
    *,
    num_workers: int,
    unit: str = "chunk",
    sizes: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[Any]:
    """function(chunk) for each chunk, in order, with a progress bar.

    Args:
      function: can be pickled, and is sent to each worker once; the calling program needs an
        `if __name__ == "__main__"` guard.
      chunks: what to call it with.
      num_workers: spawned processes; 0 computes here.
      unit: what the bar counts.
      sizes: units in each chunk; 1 if not given.
      show: whether there is a bar.

    Raises:
      RuntimeError: a worker failed or died. A CleanExit of `function` passes through.
    """
    sizes = sizes or [1] * len(chunks)
    with (
        contextlib.closing(_computed(function, chunks, num_workers=num_workers)) as computed,
        tqdm(
            total=sum(sizes),
            unit=unit,
            disable=not show,
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        ) as bar,
    ):
        for size, result in zip(sizes, computed, strict=True):
            bar.update(size)
            yield result


def spans(count: int, *, size: int) -> list[range]:
    """The numbers below `count` in consecutive ranges of at most `size`."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _computed(
    function: Callable[[Any], Any], chunks: Sequence[Any], *, num_workers: int
) -> Generator[Any, None, None]:
    if num_workers == 0:
        for chunk in chunks:
            yield function(chunk)
        return
    mark_flags_parsed()
    context = multiprocessing.get_context("spawn")
    tasks, answers = context.Queue(), context.Queue()
    workers = [
        context.Process(target=_work, args=(function, tasks, answers), daemon=True)
        for _ in range(min(num_workers, len(chunks)))
    ]
    try:
        for worker in workers:
            worker.start()
        waiting = collections.deque(enumerate(chunks))
        for _ in range(min(AHEAD * len(workers), len(waiting))):
            tasks.put(waiting.popleft())
        early: dict[int, Any] = {}
        for number in range(len(chunks)):
            while number not in early:
                answered, result = _answer(answers, workers)
                early[answered] = result
                if waiting:
                    tasks.put(waiting.popleft())
            yield early.pop(number)
    finally:
        started = [worker for worker in workers if worker.pid]
        for worker in started:
            worker.kill()
        for worker in started:
            worker.join()
        tasks.cancel_join_thread()


def _answer(answers: Any, workers: Sequence[Any]) -> tuple[int, Any]:
    while True:
        try:
            number, result, error = answers.get(timeout=PATIENCE)
        except queue.Empty:
            dead = [worker.exitcode for worker in workers if not worker.is_alive()]
            if dead:
                raise RuntimeError(f"a worker process ended with exit code {dead[0]}") from None
            continue
        if isinstance(error, CleanExit):
            raise error
        if error:
            raise RuntimeError(f"a worker process failed:\n{error}")
        return number, result


def _work(function: Callable[[Any], Any], tasks: Any, answers: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and that ends this
    while True:
        number, chunk = tasks.get()
        try:
            answers.put((number, function(chunk), None))
        except CleanExit as error:
            answers.put((number, None, error))
        except Exception as error:
            answers.put((number, None, files.clean(error) or traceback.format_exc()))
