"""Exit codes, and the errors that carry them: the one table that programs and launchers share.

A program raises `ConfigError`, `DataError`, … with a one-line message; `run` (called by every
program's `__main__`) prints the line and leaves with the code. Codes follow sysexits.h where it
has one, and 128 + signal for signals.
"""

from collections.abc import Iterable

from clipjax.common import urls

DONE = 0  # the run is complete
BAD_CONFIG = 64  # bad config or flags: do not restart
BAD_DATA = 65  # bad data: do not restart
PEER_FAILURE = 70  # a peer or the runtime failed: restart
OUT_OF_MEMORY = 71  # out of device memory: do not restart
CHECKPOINT_IO = 74  # checkpoints cannot be written or read, other files not written
HANG = 75  # a hang was ended by the watchdog: restart
DIVERGED = 76  # non-finite steps in a row: do not restart
INTERRUPTED = 130  # Ctrl-C, state saved
PREEMPTED = 143  # preempted, state saved: restart

# Strongest first: what must not be restarted, then what the user asked for, then the likely cause
# of the others. Codes not listed (a traceback's 1, 137 of the memory killer) stand at None: they
# say more than "a peer failed" (70) or the abort after the coordinator's death (134).
STRENGTH = (
    BAD_CONFIG,
    BAD_DATA,
    CHECKPOINT_IO,
    DIVERGED,
    OUT_OF_MEMORY,
    INTERRUPTED,
    HANG,
    None,
    PEER_FAILURE,
    134,
    PREEMPTED,
    DONE,
)


def strongest(codes: Iterable[int]) -> int:
    """The exit code that stands for all processes of a run."""
    return min(codes, key=lambda code: STRENGTH.index(code if code in STRENGTH else None))


class CleanExit(Exception):
    """An end of the program that needs one line and an exit code, not a traceback.

    Addresses in the line lose what gives access: it ends up in logs.
    """

    code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(urls.shown(message))


class ConfigError(CleanExit):
    """A setting or flag is wrong; the message names it and says what to do."""

    code = BAD_CONFIG


class DataError(CleanExit):
    """The data are wrong; the message names the source and says what to do."""

    code = BAD_DATA


class Diverged(CleanExit):
    """Too many steps in a row were not finite; the message says what to do."""

    code = DIVERGED


class OutOfMemory(CleanExit):
    """The devices' memory does not hold the step; the message says what to change."""

    code = OUT_OF_MEMORY


class RemoteError(CleanExit):
    """A remote file does not come in spite of retries; it may come after a restart."""

    code = PEER_FAILURE


class CheckpointError(CleanExit):
    """A checkpoint cannot be written or read; the message names step and path."""

    code = CHECKPOINT_IO


class WriteError(CleanExit):
    """A file cannot be written now; the message names it and says why. See `common/files.py`."""

    code = CHECKPOINT_IO
