"""One run, one owner: a second program in the same work directory would ruin the first one's saves.

On a local disk the owner holds a lock that ends with its process. In a bucket, which has no locks,
it renews a note. Whoever finds one watches it: where it changes the owner lives, and where it does
not for `STALE_SECONDS` the owner is dead. No clocks are compared and no process numbers, which mean
nothing from one machine or container to the next.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipjax.common import exits, private
from clipjax.common.exits import ConfigError
from clipjax.parallel import distributed, leaving

FILE = "owner.json"
RENEW_SECONDS, STALE_SECONDS = 10.0, 60.0

log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
    """Own the work directory, made if need be; on all processes alike, the lead holds it.

    Raises:
      ConfigError: another live program owns it, named by host and process; or others may write it.
    """
    with contextlib.ExitStack() as held:
        problem = ""
        if distributed.is_lead():
            take = _renewed if "://" in workdir else _locked
            try:
                if "://" not in workdir:
                    private.make(workdir, mode=0o755)
                epath.Path(workdir).mkdir(parents=True, exist_ok=True)
                private.check(workdir, setting="--workdir")
                held.enter_context(take(epath.Path(workdir) / FILE))
            except ConfigError as error:
                problem = str(error)
            except Exception as error:  # every cloud's package has its own
                reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                problem = f"--workdir={workdir}: cannot be written: {reason[:300]}"
        problem = distributed.from_lead(problem.encode()).decode()
        if problem:
            raise ConfigError(problem)
        yield


def _note() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def _taken(file: epath.Path, owner: dict[str, Any]) -> ConfigError:
    return ConfigError(
        f"--workdir={file.parent}: process {owner.get('pid', '?')} on {owner.get('host', '?')} is"
        " training there; end it first, or choose another --workdir"
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
        with contextlib.suppress(OSError):  # on a full disk the lock alone will do
            stream.truncate(0)
            stream.write(json.dumps(_note()) + "\n")
            stream.flush()
        yield


@contextlib.contextmanager
def _renewed(file: epath.Path) -> Iterator[None]:
    _watch(file)
    name, ended = secrets.token_hex(8), threading.Event()

    def write() -> None:
        file.write_text(json.dumps({**_note(), "name": name}) + "\n")

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # as above
                owner = _read(file)
                if owner.get("name", name) != name:
                    leaving.leave(exits.BAD_CONFIG, str(_taken(file, owner)))
                write()

    write()
    threading.Thread(target=renew, name="lease", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(Exception):  # as above
            if _read(file).get("name") == name:
                file.unlink(missing_ok=True)


def _watch(file: epath.Path) -> None:
    """Until nobody owns it; ConfigError as soon as its owner is seen to live."""
    owner, began = _read(file), time.monotonic()
    if owner:
        log.warning(
            "%s: process %s on %s did not sign off; waiting up to %.0f s to see whether it lives",
            *(file.parent, owner.get("pid", "?"), owner.get("host", "?"), STALE_SECONDS),
        )
    while owner and time.monotonic() - began < STALE_SECONDS:
        time.sleep(RENEW_SECONDS / 4)
        now = _read(file)
        if now and now != owner:
            raise _taken(file, now)
        owner = now


def _read(file: epath.Path) -> dict[str, Any]:
    """What stands there; {} for nothing."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:  # half a note, of somebody who is writing
        return {"host": "?"}
