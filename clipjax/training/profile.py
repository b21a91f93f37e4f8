"""Traces of a few steps with jax's profiler, for TensorBoard's profile page.

Asked for before the run, `config.profile = "100:105"`, or while it runs: `touch WORKDIR/profile`
traces the next steps and removes the file. Called by the training loop.
"""

import contextlib
import os
from collections.abc import Callable

import jax
from absl import logging
from etils import epath

from clipjax.common import files
from clipjax.common.durations import step_window
from clipjax.common.exits import CleanExit

STEPS = 5  # traced after a touch


class Profiler:
    """Starts and stops the traces of one process.

    Args:
      workdir: traces go to its `tensorboard` folder, one for each host.
      window: as in `config.profile`.
      look_every: steps between looks at the touch-file; 0 never looks. One process of a run does.
    """

    def __init__(self, workdir: str, *, window: str, look_every: int) -> None:
        self.folder = os.path.join(workdir, "tensorboard")
        self.request = epath.Path(workdir) / "profile"
        self.window = step_window(window, where="config.profile")
        self.look_every = look_every
        self.tracing = False

    def before(self, step: int) -> None:
        """Call before dispatching the step after `step` finished ones."""
        looks = self.look_every and not self.tracing and step % self.look_every == 0
        if looks and self.request.exists():
            with contextlib.suppress(CleanExit):
                files.remove(self.request)
                self.window = range(step, step + STEPS)
        if step in self.window and not self.tracing:
            logging.info("tracing steps %d to %d", step, self.window[-1])
            self.tracing = self._attempt(lambda: jax.profiler.start_trace(self.folder))
        elif self.tracing and step not in self.window:
            self.close()

    def close(self) -> None:
        """End a trace that runs; call at the end of the loop too."""
        if self.tracing:
            self.tracing = False
            if self._attempt(jax.profiler.stop_trace):
                logging.info("trace written to %s", self.folder)

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Whether it went well; a trace that cannot be written does not end a run."""
        try:
            action()
        except Exception as error:  # every cloud's package has its own
            self.window = range(0)
            reason = " ".join(str(error).split())[:200]
            logging.warning("profile: no trace in %s (%s); training goes on", self.folder, reason)
            return False
        return True
