"""One run, one owner: a second program in the same work directory would ruin the first one's saves.

On a local disk the owner holds a lock that ends with its process. In a bucket, which has no locks,
it renews a note; the note of an owner that died counts until it is stale.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipjax.common.exits import ConfigError
from clipjax.parallel import distributed

FILE = "owner.json"
RENEW_SECONDS, STALE_SECONDS = 30.0, 150.0


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
    """Own the work directory, made if need be; on all processes alike, the lead holds it.

    Raises:
      ConfigError: another live program owns it; names its host and process.
    """
    with contextlib.ExitStack() as held:
        problem = ""
        if distributed.is_lead():
            try:
                epath.Path(workdir).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = f"--workdir={workdir}: cannot be made: {error.strerror}"
        if distributed.is_lead() and not problem:
            take = _renewed if "://" in workdir else _locked
            try:
                held.enter_context(take(epath.Path(workdir) / FILE))
            except ConfigError as error:
                problem = str(error)
        problem = distributed.from_lead(problem.encode()).decode()
        if problem:
            raise ConfigError(problem)
        yield


def _note() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def _taken(file: epath.Path, owner: dict[str, Any], advice: str = "") -> ConfigError:
    return ConfigError(
        f"--workdir={file.parent}: process {owner.get('pid', '?')} on {owner.get('host', '?')} is"
        f" training there; end it first, or choose another --workdir{advice}"
    )


@contextlib.contextmanager
def _locked(file: epath.Path) -> Iterator[None]:
    with open(file, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(file, _read(file)) from error
        except OSError:
            pass  # a file system without locks: the note still says who was here
        stream.truncate(0)
        stream.write(json.dumps(_note()) + "\n")
        stream.flush()
        yield


@contextlib.contextmanager
def _renewed(file: epath.Path) -> Iterator[None]:
    owner = _read(file)
    age = time.time() - owner.get("time", 0.0)
    ours = owner.get("host") == socket.gethostname() and not _runs(owner.get("pid", 0))
    if age < STALE_SECONDS and not ours:
        wait = STALE_SECONDS - age
        raise _taken(file, owner, f"; if it was killed, try again in {wait:.0f} seconds")
    ended = threading.Event()

    def renew() -> None:
        while True:
            with contextlib.suppress(OSError):
                file.write_text(json.dumps(_note()) + "\n")
            if ended.wait(RENEW_SECONDS):
                return

    threading.Thread(target=renew, name="lease", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        file.unlink(missing_ok=True)


def _read(file: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
