"""Standard streams that may be closed, narrow or lost: no program ends for what it cannot say.

`prepare` is the first thing that a program calls (`common/cli.py`). A stream that was closed at the
start (`>&-`, daemons) is nowhere; letters that its encoding lacks are written as escapes; writes
that fail are remembered and not raised, so that the work goes on.
"""

import contextlib
import errno
import os
import sys
from typing import Any

DESCRIPTORS = {"stdin": 0, "stdout": 1, "stderr": 2}


class Tolerant:
    """A text stream whose writes may fail; all else is the stream's own.

    Attributes:
      lost: the last error of a write or flush; None while everything could be written.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write what can be written; returns the length of `text`."""
        try:
            self._stream.write(text)
        except OSError as error:
            self.lost = error
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except OSError as error:
            self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare() -> None:
    """Make the standard streams usable, whatever the program was started with.

    A closed descriptor is opened on the null device first: otherwise the next file that is opened
    would get its number, and with it what libraries print.
    """
    for name, descriptor in DESCRIPTORS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    tolerate("stdout")
    tolerate("stderr")


def tolerate(name: str) -> None:
    """Make `sys.stdout` or `sys.stderr`, by its name, tolerant for the rest of the program."""
    stream = getattr(sys, name)
    if isinstance(stream, Tolerant):
        return
    if stream is None:
        stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    with contextlib.suppress(AttributeError, ValueError):  # a notebook's stream has its own ways
        stream.reconfigure(errors="backslashreplace")
    setattr(sys, name, Tolerant(stream))


def mute_libraries() -> None:
    """Throw away what C++ libraries print to standard output; `print` goes on as before.

    Some cannot be asked to be quiet. Standard error stays theirs: what goes wrong is told there.
    """
    stream = sys.stdout
    try:
        is_own = isinstance(stream, Tolerant) and stream.fileno() == DESCRIPTORS["stdout"]
    except (AttributeError, OSError, ValueError):  # one in memory has no number
        is_own = False
    if not is_own:
        return  # a test's or a notebook's
    stream.flush()
    own = os.dup(stream.fileno())
    sys.stdout = Tolerant(os.fdopen(own, "w", 1, encoding=stream.encoding, errors=stream.errors))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, DESCRIPTORS["stdout"])
    os.close(null)


def close_output() -> str:
    """Flush standard output for the last time; returns why some of it is lost, "" if nothing is.

    A reader that left (`| head`) has all that it wanted.
    """
    stream = sys.stdout
    if not isinstance(stream, Tolerant):
        return ""
    stream.flush()
    if stream.lost is None:
        return ""
    with contextlib.suppress(OSError, ValueError):  # what is in the buffer would fail once more
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    return "" if stream.lost.errno == errno.EPIPE else stream.lost.strerror or str(stream.lost)
