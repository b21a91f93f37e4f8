"""Leaving in time: SIGTERM and Ctrl-C become "save at the next common point" on every process.

jax's preemption service hears SIGTERM (after `jax.distributed.initialize`, also with one process)
and finds a poll that all processes have still ahead of them. The training loop polls once a step,
evaluators once a batch; all processes poll equally often, so all see the answer at the same poll.
"""

import os
import signal
from typing import Any

from jax.experimental import multihost_utils

from clipjax.common import exits


class Preemption:
    """Polls for a notice to leave; `exit_code` tells which kind it was."""

    def __init__(self) -> None:
        self.polls = 0
        self.reached = False
        self.interrupted = False
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, signal_number: int, frame: Any) -> None:
        # A second Ctrl-C ends the program at once. SIGTERM to ourselves makes every process save.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)

    def poll(self) -> bool:
        """Whether to save and leave now; once true, always true."""
        self.polls += 1
        if not self.reached:
            self.reached = bool(multihost_utils.reached_preemption_sync_point(self.polls))
        return self.reached

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, else 143."""
        return exits.INTERRUPTED if self.interrupted else exits.PREEMPTED
