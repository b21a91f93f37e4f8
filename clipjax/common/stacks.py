"""Where a process that hangs and its workers stand: Python's stacks of all threads, to stderr."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time

ASK = signal.SIGUSR1
ANSWER_SECONDS = 0.3  # for a worker to write its stacks, so that two do not write at once
ALL_ANSWER_SECONDS = 3.0  # for all of them together


def answer() -> None:
    """In a worker: show the stacks of this process when its parent asks; a stuck thread, even one
    that holds the interpreter's lock, does not hinder it."""
    faulthandler.register(ASK, all_threads=True)


def show() -> None:
    """The stacks of this process, then those of its multiprocessing workers.

    A worker that has not yet called `answer` is ended by the question: only for a process that is
    about to leave.
    """
    print("clipjax: stacks of all threads of this process:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    workers = multiprocessing.active_children()
    for worker in workers:
        print(f"clipjax: stacks of its worker {worker.pid}:", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError, TypeError):  # it ended, or has no process id yet
            os.kill(worker.pid, ASK)  # pyright: ignore[reportArgumentType]
            time.sleep(min(ANSWER_SECONDS, ALL_ANSWER_SECONDS / len(workers)))
