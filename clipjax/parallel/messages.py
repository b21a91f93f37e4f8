"""Short notes between the processes of a run that none of them has to wait for.

They lie in jax's coordination service, so that threads can write and read them while the main
thread sits in a collective. Used by `shutdown`, and where a save or the evaluation of a set fails
on one process alone.
"""

import contextlib
import time
from typing import Any

import jax

SLICE_SECONDS = 5.0  # of waiting for a note, between which Ctrl-C is heard


def post(key: str, text: str) -> None:
    """Put up a note; the first one under a key stays. Does nothing where the service is gone."""
    with contextlib.suppress(Exception):
        client().key_value_set(key, text)


def read(key: str) -> str | None:
    """The note under a key, or None; raises where the service is gone."""
    try:
        return client().key_value_try_get(key)
    except Exception as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def exchange(text: str, *, key: str, patience: float | None = None) -> list[str]:
    """The texts of all processes, in their order; each must call it, with a key of its own.

    Args:
      text: this process's.
      key: the same on all, used once.
      patience: seconds to wait for the others; None waits as long as they live.

    Raises:
      TimeoutError: one did not come in time.
    """
    if jax.process_count() == 1:
        return [text]
    client().key_value_set(f"{key}/{jax.process_index()}", text)
    until = None if patience is None else time.monotonic() + patience
    return [_awaited(f"{key}/{index}", until=until) for index in range(jax.process_count())]


def _awaited(key: str, *, until: float | None) -> str:
    while True:
        try:
            return client().blocking_key_value_get(key, int(1000 * SLICE_SECONDS))
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if until is not None and time.monotonic() > until:
            raise TimeoutError(key)


def client() -> Any:
    """The service that `jax.distributed` runs on; jax has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client
