"""Output that may be lost: a run does not end because the disk under its log file is full."""

import contextlib
import sys
from typing import Any


class Tolerant:
    """A text stream whose writes may fail unheard; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tolerate(name: str) -> None:
    """Make `sys.stdout` or `sys.stderr`, by its name, tolerant for the rest of the program."""
    setattr(sys, name, Tolerant(getattr(sys, name)))
