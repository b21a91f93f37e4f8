"""Naming the host that all others wait for.

A step is one collective: it takes every process as long as the slowest one. What a process waits
for its own batch is its own, so a slow disk, network or CPU shows there and nowhere else. A slow
chip does not show: compare `perf/step_seconds` with the plan.
"""

import logging
import socket

import numpy as np

from clipjax.parallel import distributed

WINDOW = 20  # steps between judgements
LEAST_SECONDS, LEAST_SHARE = 0.005, 0.1  # more than the others wait, each step; of the step

log = logging.getLogger(__name__)


class Stragglers:
    """Judges by what each process waited; all processes make and call it alike (collectives)."""

    def __init__(self) -> None:
        name = socket.gethostname().encode()[:64].ljust(64)
        self.hosts = [
            bytes(row).decode(errors="replace").strip()
            for row in distributed.gather(np.frombuffer(name, np.uint8)).astype(np.uint8)
        ]
        self.waited = np.zeros(len(self.hosts))
        self.steps, self.seconds = 0, 0.0
        self.windows = 0
        self.named = -1

    def note(self, waited: np.ndarray, *, steps: int, seconds: float) -> int:
        """Count some steps; the process that holds up the others, or -1.

        Args:
          waited: [processes], seconds that each waited for its batches.
          steps: in which they did.
          seconds: that these steps took in all.
        """
        self.waited = self.waited + waited
        self.steps += steps
        self.seconds += seconds
        if self.steps >= WINDOW:
            self.windows += 1
            if self.windows > 1:  # the first window holds the start of every loader
                self._judge()
            self.waited, self.steps, self.seconds = np.zeros(len(self.hosts)), 0, 0.0
        return self.named

    def _judge(self) -> None:
        before, self.named = self.named, -1
        if len(self.hosts) == 1:
            return
        slowest = int(np.argmax(self.waited))
        each = self.waited / self.steps
        others = float(np.median(np.delete(each, slowest)))
        step = self.seconds / self.steps
        if each[slowest] - others > max(LEAST_SECONDS, LEAST_SHARE * step):
            self.named = slowest
            if before != slowest and distributed.is_lead():
                log.warning(
                    "process %d on %s holds up all others: it waits %.0f ms a step for its batch,"
                    " they %.0f ms; look at its disk, network and CPU",
                    *(slowest, self.hosts[slowest], 1e3 * each[slowest], 1e3 * others),
                )
