"""Ends a run in which nothing happens any more, and shows where each thread stands, its loader
workers' too.

Heartbeats between hosts come from a thread of their own and go on while Python waits for a disk, a
lock or a collective that a peer never joins: only the absence of finished work tells.
"""

import threading
import time

from clipjax.common import exits, stacks
from clipjax.parallel import shutdown

START_SECONDS = 1800.0  # at least so long until the first beat: restoring, compiling


class Watchdog:
    """Leaves with 75, all hosts together, `seconds` after the last `beat`; 0 is off."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start()
        self.closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def start(self) -> None:
        """A program begins that has to be compiled first."""
        self.last = time.monotonic()
        self.limit = max(self.seconds, START_SECONDS)

    def beat(self) -> None:
        """Something was finished."""
        self.last = time.monotonic()
        self.limit = self.seconds

    def close(self) -> None:
        """Stop watching."""
        self.closed.set()

    def _watch(self) -> None:
        while not self.closed.wait(min(self.seconds / 10, 1.0)):
            silent = time.monotonic() - self.last
            if silent > self.limit:
                stacks.show()
                shutdown.leave(
                    exits.HANG,
                    f"nothing was finished for {silent:.0f} seconds, more than"
                    f" config.watchdog_seconds={self.limit:g}; the stacks above, most recent call"
                    " first, show where this process waits",
                )
