"""Signs of life while something takes long and cannot tell how far it is.

with waiting.told("compiling"):
    step.compile()      # "compiling: 30 s", "compiling: 60 s", … on stderr
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

EVERY_SECONDS = 30.0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def told(
    what: str, *, every: float = EVERY_SECONDS, say: Callable[[str], None] = _to_stderr
) -> Iterator[None]:
    """Say how long it has taken so far, every so many seconds until the block ends."""
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(every):
            say(f"{what}: {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
