"""One run, one owner: a second program in the same work directory would ruin the first one's saves.

On a disk the owner holds a lock (`flock`) that ends with its process; what it is worth, the file
system decides:

- local disks, NFS (Linux 2.6.12 on), Lustre with `-o flock`, GPFS: no second owner anywhere.
- a lock that only the machine itself sees (Lustre with `-o localflock`, NFS with `local_lock`, many
  FUSE mounts): no second owner on one machine. One on another machine is not kept out, and nothing
  tells such a lock from a true one. An owner that ended badly elsewhere, or has not ended, is named
  in a warning.
- no locks at all (`flock` fails): as in a bucket.

In a bucket, which has no locks, the owner renews a note. Whoever finds one watches it: where it
changes the owner lives, and where it does not for `STALE_SECONDS` the owner is dead. No clocks are
compared and no process numbers, which mean nothing from one machine or container to the next. Of
two programs that start within the same moment both may begin; the one whose note the other has
written over leaves within `RENEW_SECONDS`, with 64.
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
from typing import IO, Any

from etils import epath

from clipjax.common import exits, files, private
from clipjax.common.exits import ConfigError
from clipjax.parallel import distributed, shutdown

FILE = "owner.json"
RENEW_SECONDS, STALE_SECONDS = 10.0, 60.0

UNREADABLE: dict[str, Any] = {"host": "?"}
log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
    """Own the work directory, made if need be; on all processes alike, the lead holds it.

    Raises:
      ConfigError: another live program owns it, named by host and process; or anyone may write it.
      WriteError: it cannot be made or written.
    """
    with contextlib.ExitStack() as held:

        def take() -> None:
            with files.errors(workdir, setting="--workdir"):
                files.make_folder(workdir, setting="--workdir", mode=0o755)
                private.check(workdir, setting="--workdir", shared=True)
                own = _renewed if files.is_remote(workdir) else _locked
                held.enter_context(own(epath.Path(workdir) / FILE))

        distributed.on_lead(take)
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
    new = not file.exists()
    with contextlib.ExitStack() as held:
        stream = held.enter_context(files.open_file(file, "ab+", buffering=0))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(file, _read(file)) from error
        except OSError as error:
            log.warning(
                "%s: has no locks (%s): a second program is kept out by this one's note, renewed"
                " every %.0f s; of two that start in the same moment both begin, and one leaves",
                *(file.parent, error.strerror, RENEW_SECONDS),
            )
            if new and not os.fstat(stream.fileno()).st_size:
                files.remove(file)  # ours, not half a note of somebody's
            held.enter_context(_renewed(file))
        else:
            held.enter_context(_noted(stream, file))
        yield


@contextlib.contextmanager
def _noted(stream: IO[bytes], file: epath.Path) -> Iterator[None]:
    """Say in the locked file who holds it."""
    before = _read(file) if os.fstat(stream.fileno()).st_size else {}
    mine = _note()
    if before.get("host", mine["host"]) != mine["host"]:
        log.warning(
            "%s: process %s on %s did not sign off; make sure that it has ended: the lock of this"
            " file system keeps out other machines' programs only if it is not the machine's own",
            *(file.parent, before.get("pid", "?"), before["host"]),
        )
    with contextlib.suppress(OSError):  # on a full disk the lock alone will do
        stream.truncate(0)
        stream.write(f"{json.dumps(mine)}\n".encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.truncate(0)


@contextlib.contextmanager
def _renewed(file: epath.Path) -> Iterator[None]:
    _watch(file)
    name, ended = secrets.token_hex(8), threading.Event()

    def write() -> None:
        files.write(file, json.dumps({**_note(), "name": name}) + "\n")

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # as above
                owner = _read(file)
                if owner.get("name", name) != name:
                    shutdown.leave(exits.BAD_CONFIG, str(_taken(file, owner)))
                write()

    write()
    threading.Thread(target=renew, name="lease", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(Exception):  # as above
            if _read(file).get("name") == name:
                files.remove(file)


def _watch(file: epath.Path) -> None:
    """Until nobody owns it; ConfigError as soon as its owner is seen to live."""
    owner, began = _read(file), time.monotonic()
    if owner == UNREADABLE:
        time.sleep(RENEW_SECONDS / 4)
        owner = _read(file)
        if owner == UNREADABLE and not file.stat().length:
            owner = {}  # emptied by one that signed off
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
    """What stands there; {} for no file, UNREADABLE for half a note, of somebody who is writing."""
    try:
        note = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return UNREADABLE
    return note if isinstance(note, dict) else UNREADABLE
