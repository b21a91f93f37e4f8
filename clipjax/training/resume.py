"""Which checkpoint a run goes on from: the newest that is whole; damaged ones are put aside."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.common.exits import CheckpointError
from clipjax.parallel import distributed
from clipjax.training.checkpoint.write import Checkpoints

log = logging.getLogger(__name__)

ASIDE = "damaged"  # folder of the work directory that damaged steps are moved to


def restore_newest(
    checkpoints: Checkpoints,
    abstract: Callable[[int], Any],
    *,
    check: Callable[[dict[str, Any]], None],
) -> tuple[int, Any] | None:
    """(step, state) of the newest checkpoint that is what was saved; None if there is none at all.

    A damaged step is moved to `WORKDIR/damaged/STEP` and the one before is tried; all processes
    take the same one.

    Args:
      checkpoints: of the run, open for writing.
      abstract: step → tree of jax.ShapeDtypeStruct with shardings, what was saved at that step.
      check: called with the JSON of the step before its arrays are read; may raise.

    Raises:
      CheckpointError: there are checkpoints and all are damaged.
      ConfigError: the state or `check` does not go with the config.
    """
    steps = checkpoints.steps()
    tried = []
    while (step := checkpoints.latest()) is not None:
        state, problem = None, ""
        try:
            check(checkpoints.read_run(step))
            state = checkpoints.restore(step, abstract(step))
        except CheckpointError as error:
            problem = str(error)
        if not distributed.gather_sum(np.int64(bool(problem))):
            return step, state
        aside = checkpoints.directory.parent / ASIDE
        log.error("%s; moved to %s, going on from the one before", problem or step, aside)
        checkpoints.put_aside(step, aside)
        tried.append(step)
    if tried:
        raise CheckpointError(
            f"{checkpoints.directory}: all {len(steps)} checkpoints are damaged, moved to {aside};"
            " restore one from a copy, or start in another --workdir"
        )
    return None
