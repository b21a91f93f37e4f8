"""Saving in spite of a full disk or a failing store: try again, and give up after three in a row.

A save runs in the background, so its failure shows up when the next one begins. Training goes on
meanwhile; the steps saved before are intact. All processes call it alike and decide alike.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax.common.exits import CheckpointError
from clipjax.parallel import distributed
from clipjax.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # in a row
RETRY_SECONDS = 2.0  # before the last save is tried again


class Saver:
    """Saves one run's checkpoints; see the module's docstring."""

    def __init__(self, checkpoints: Checkpoints, *, every_minutes: float = 0.0) -> None:
        self.checkpoints = checkpoints
        self.every_minutes = every_minutes
        self.failures = 0
        self.last = time.monotonic()

    def time_is_up(self) -> bool:
        """Whether a save is due by the clock, if one is set: the lead's decision, a collective."""
        if not self.every_minutes:
            return False
        due = time.monotonic() - self.last >= 60 * self.every_minutes
        return distributed.from_lead(b"yes" if due else b"no") == b"yes"

    def save(
        self,
        step: int,
        state: Any,
        *,
        run: Mapping[str, Any],
        metrics: Mapping[str, float],
        last: bool = False,
    ) -> None:
        """Start saving a step; with `last` it is on disk when this returns.

        Raises:
          CheckpointError: the third failure in a row; earlier steps are intact.
        """
        self.last = time.monotonic()
        self._try(self.checkpoints.wait)  # how the save before has ended
        while True:
            started = self._try(
                lambda: self.checkpoints.save(step, state, run=run, metrics=metrics)
            )
            if not last or (started and self._try(self.checkpoints.wait)):
                return
            time.sleep(RETRY_SECONDS)

    def _try(self, action: Callable[[], Any]) -> bool:
        """Whether it went well on all processes; counts, and cleans up, if not."""
        problem: CheckpointError | None = None
        try:
            action()
        except CheckpointError as error:
            problem = error
        if not distributed.gather_sum(np.int64(problem is not None)):
            if action == self.checkpoints.wait and self.failures:
                # Writers that had not heard of the failure may have left something since.
                self.checkpoints.remove_unfinished()
                self.failures = 0
            return True
        self.failures += 1
        told = str(problem or "another process could not save")
        if self.failures >= MAX_FAILURES:
            raise CheckpointError(f"{told}; {MAX_FAILURES} failures in a row, leaving")
        self.checkpoints.begin_again()
        log.error(
            "%s; training goes on, the steps saved before are intact (failure %d of %d in a row)",
            *(told, self.failures, MAX_FAILURES),
        )
        return False
