"""Short notes between the processes of a run that none of them has to wait for.

They lie in jax's coordination service, so that threads can write and read them while the main
thread sits in a collective. Used by `leaving`, and where a save fails on one process alone.
"""

import contextlib
from typing import Any


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


def client() -> Any:
    """The service that `jax.distributed` runs on; jax has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client
