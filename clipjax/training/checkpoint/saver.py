"""Saving in spite of a full disk or a failing store: try again, and give up after three in a row.

A save runs in the background, so its failure shows up when the next one begins. Training goes on
meanwhile; the steps saved before are intact. All processes call it alike and decide alike. Only a
save that is on disk ends a row of failures, not one that has merely begun.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax.common.exits import CheckpointError
from clipjax.parallel import distributed
from clipjax.training.checkpoint.write import Checkpoints

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # in a row
MISTAKES = (AssertionError, AttributeError, LookupError, NameError, TypeError)  # of a program
RETRY_SECONDS = 2.0  # before the last save is tried again, then doubled


class Saver:
    """Saves one run's checkpoints; see the module's docstring."""

    def __init__(self, checkpoints: Checkpoints, *, every_minutes: float = 0.0) -> None:
        self.checkpoints = checkpoints
        self.every_minutes = every_minutes
        self.failures = 0
        self.under_way = False  # a save has begun whose end is not known
        self.to_begin_again = False
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
        if self.under_way:
            self._wait()
        while True:
            started = self._try(
                lambda: self.checkpoints.save(step, state, run=run, metrics=metrics)
            )
            self.under_way = started
            if not last or (started and self._wait()):
                return
            time.sleep(RETRY_SECONDS * 2 ** (self.failures - 1))

    def _wait(self) -> bool:
        """Whether the save under way is on disk, of all processes."""
        self.under_way = False
        whole = self._try(self.checkpoints.wait)
        if whole and self.failures:
            # Writers that had not heard of the failure may have left something since.
            self._agreed(self.checkpoints.remove_unfinished)
            self.failures = 0
        return whole

    def _try(self, action: Callable[[], Any]) -> bool:
        """Whether it went well on all processes; counts, and cleans up, if not."""
        problem = self._agreed(self.checkpoints.begin_again) if self.to_begin_again else ""
        self.to_begin_again = bool(problem)
        problem = problem or self._agreed(action)
        if not problem:
            return True
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            raise CheckpointError(f"{problem}; {MAX_FAILURES} failures in a row, leaving")
        log.error(
            "%s; training goes on, the steps saved before are intact (failure %d of %d in a row)",
            *(problem, self.failures, MAX_FAILURES),
        )
        if not self.to_begin_again:  # at once: what it left may fill the disk
            self.to_begin_again = bool(self._agreed(self.checkpoints.begin_again))
        return False

    def _agreed(self, action: Callable[[], Any]) -> str:
        """What went wrong with it here, or elsewhere; "" on all processes where it went well."""
        problem = ""
        try:
            action()
        except CheckpointError as error:
            problem = str(error)
            if isinstance(error.__cause__, MISTAKES):
                log.error(
                    "no store fails like this; where it comes from:", exc_info=error.__cause__
                )
        failed = distributed.gather_sum(np.int64(bool(problem)))
        return (problem or "another process could not save") if failed else ""
