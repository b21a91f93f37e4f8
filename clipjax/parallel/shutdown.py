"""How the processes of a run end together: with one exit code, at once, leaving no child behind.

A process that must end says so to the others through jax's coordination service; each listens in
a thread of its own, so that one stuck in a collective hears it, too. Then all leave without jax's
orderly shutdown, which would wait for the peers that are gone until heartbeats time out.
"""

import contextlib
import glob
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from clipjax.common import exits, files, stacks
from clipjax.common.exits import CleanExit, OutOfMemory
from clipjax.parallel import messages

KEY = "clipjax/leaving"  # in the coordination service; "CODE PROCESS MESSAGE"
LISTEN_SECONDS = 0.5  # between looks at the service
# How the text of an error of the runtime begins; jax raises some of them as a ValueError.
STATUS = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")
TRAINING = (
    "raise --config.micro_batches or --config.model.vision.remat=block (python -m clipjax.plan"
    " shows what fits)"
)
_FIRST = threading.Lock()
LINGER_SECONDS = 1.0  # that the coordinator stays, so that the others can hear


@contextlib.contextmanager
def on_all_hosts(*, more_memory: str = TRAINING) -> Iterator[None]:
    """Within it, an error of any process ends all of them, each with the same exit code.

    A CleanExit keeps its code; full device memory (71) and full disks (74) become one. Of another
    error the traceback is shown and the code is 70 if it came from jax (a peer or the runtime
    failed), else 1. Alone, a process raises as usual.

    Args:
      more_memory: what to do where the devices' memory is too small.
    """
    if jax.process_count() == 1:
        try:
            yield
        except Exception as error:
            if (clean := _clean(error, more_memory)) is not None:
                raise clean from error
            raise
        return
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(ended,), daemon=True)
    listener.start()
    try:
        yield
        # A call still under way when the service ends would abort this process.
        ended.set()
        listener.join()
    except CleanExit as error:
        leave(error.code, str(error))
    except Exception as error:
        if (clean := _clean(error, more_memory)) is not None:
            leave(clean.code, str(clean))
        if isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)):
            reason = " ".join(str(error).split())[:300]
            leave(exits.PEER_FAILURE, f"a peer or the runtime failed: {reason}")
        sys.excepthook(type(error), error, error.__traceback__)
        leave(1, f"{type(error).__name__}: {error}")


def _clean(error: Exception, more_memory: str) -> CleanExit | None:
    """The one line for an error of the machine, full device memory or a full disk; else None."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        reason = " ".join(str(error).split())[:200]
        return OutOfMemory(f"out of device memory; {more_memory}: {reason}")
    return files.clean(error)


def exit_with(program: Callable[[], int]) -> NoReturn:
    """Run it, then end the process with its exit code or its error's.

    Threads are not waited for: one whose save failed may never end.
    """
    try:
        code = program()
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()  # the others may not have come so far
        end(code)
    except CleanExit as error:
        print(f"clipjax: {error}", file=sys.stderr)
        end(error.code)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        end(1)


def leave(code: int, message: str) -> NoReturn:
    """Tell the others, unless one of them spoke first, and end this process now."""
    if jax.process_count() > 1:
        text = f"{code} {jax.process_index()} {message}"
        messages.post(KEY, text)
        with contextlib.suppress(Exception):  # the service may be gone
            text = messages.read(KEY) or text
        _end_as_told(text)
    print(f"clipjax: {message}", file=sys.stderr)
    end(code)


def end(code: int) -> NoReturn:
    """End this process and its children at once, with flushed output."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(Exception):  # whatever happens, the code is what the caller reads
        for child in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
    os._exit(code)


def _listen(ended: threading.Event) -> None:
    while not ended.wait(LISTEN_SECONDS):
        try:
            text = messages.read(KEY)
        except Exception:
            return  # the service is gone; jax ends us
        if text is None:
            continue
        if int(text.split(" ", 2)[1]) != jax.process_index():  # it ends itself
            _end_as_told(text)
        return


def _end_as_told(text: str) -> NoReturn:
    _FIRST.acquire()  # never released: only one thread of the process ends it
    code, process, message = text.split(" ", 2)
    print(f"clipjax: process {process}: {message}", file=sys.stderr, flush=True)
    linger = LINGER_SECONDS
    if int(code) == exits.HANG:
        linger += stacks.ALL_ANSWER_SECONDS
        if int(process) != jax.process_index():
            stacks.show()  # it may be this one that the other waits for
    if jax.process_index() == 0:
        time.sleep(linger)
    end(int(code))


def _children(parent: int) -> list[int]:
    """Process ids of all descendants."""
    pairs = _processes()
    children, parents = [], {parent}
    while parents:
        parents = {pid for pid, above in pairs if above in parents}
        children += parents
    return children


def _processes() -> list[tuple[int, int]]:
    """(process id, its parent's) of all processes: from /proc, since slim containers have no `ps`;
    by `ps` where there is no /proc."""
    pairs = []
    for file in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError), open(file, errors="replace") as stat:
            # "PID (NAME) STATE PARENT …", and the name may hold anything
            parent = int(stat.read().rpartition(")")[2].split()[1])
            pairs.append((int(file.split("/")[2]), parent))
    if not pairs:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
        words = [int(word) for word in listed.stdout.split()]
        pairs = list(zip(words[::2], words[1::2], strict=True))
    return pairs
