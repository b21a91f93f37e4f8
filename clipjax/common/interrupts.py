"""Ctrl-C while nothing is at stake: a program ends at once with 130, and says no more.

A KeyboardInterrupt raised inside an import becomes an ImportError as often as not, and inside a
callback of the runtime it is swallowed. So none is raised there.
"""

import os
import signal
from typing import Any

from clipjax.common.exits import INTERRUPTED

IMPORTING = "<frozen importlib._bootstrap>"


def leave_at_once() -> None:
    """End the program at Ctrl-C without a word: it is starting, and there is nothing to lose."""
    _handle(lambda number, frame: os._exit(INTERRUPTED))


def raise_in_work() -> None:
    """Raise KeyboardInterrupt at Ctrl-C, for `finally` and `with`; within an import, leave."""

    def interrupt(number: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_code.co_filename == IMPORTING:
                os._exit(INTERRUPTED)
            frame = frame.f_back
        raise KeyboardInterrupt

    _handle(interrupt)


def _handle(handler: Any) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # `nohup`, jobs in the background
        signal.signal(signal.SIGINT, handler)
