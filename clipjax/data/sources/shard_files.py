"""Shards as local files: where each one is, and where its index is kept.

Local shards are read where they lie. A remote one (`https://`, `gs://` and what else fsspec
opens) is copied as a whole, once, into a folder of bounded size that all processes of a host
share. Used by `sources.sharded` and the formats.
"""

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from clipjax.common import files, private, urls
from clipjax.common.exits import CleanExit
from clipjax.data.sources import index_file, remote

DEFAULT_BYTES = 100 << 30
FORGET_FAILURE = 60.0  # seconds until a shard that was not there is looked for again
REOPENED = 10  # times that a copy may be evicted before it is open
REMEDY = "copy or write it again, or leave it out of config.data.path"
COMPRESSED = {  # by how files begin, what makes them readable
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
}
INDEXES, COPIES = "index", "shards"  # sub-folders of the cache

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """What is kept on this host, and where.

    Args:
      cache_dir: folder for indexes and copies; "" is beside each local shard if that can be
        written, else `index_file.CACHE_FOLDER`.
      cache_bytes: bound on all copies together; the least recently opened ones make room. The
        shard just fetched stays, however large.
      index: folder, local or remote, where `clipjax.dataset index` wrote all indexes; "" is none.

    Raises:
      ConfigError: anyone may write the cache folder, and so change what is trained on.
    """

    cache_dir: str = ""
    cache_bytes: int = DEFAULT_BYTES
    index: str = ""

    def __post_init__(self):
        inner = (os.path.join(self.folder, name) for name in (INDEXES, COPIES))
        for folder in (self.folder, *inner):
            private.check(folder, setting="config.data.cache_dir", shared=True)

    @property
    def folder(self) -> str:
        """The cache folder's full path."""
        if self.cache_dir:
            return files.resolve(self.cache_dir, setting="config.data.cache_dir", protocols=())
        return index_file.cache_folder()

    def index_places(self, path: str, *, part: str = "") -> list[str]:
        """Where the index of a shard, or a part of it with a name, may lie, best first."""
        part = part and f".{part}"
        kept = os.path.join(self.folder, INDEXES, f"{index_file.unique_name(path)}{part}.npz")
        beside = not self.cache_dir and not remote.is_remote(path)
        return [f"{os.path.abspath(path)}{part}.index.npz", kept] if beside else [kept]

    def load_index(
        self,
        path: str,
        *,
        names: Sequence[str],
        version: int,
        build: Callable[[], index_file.Columns],
        part: str = "",
    ) -> index_file.Columns:
        """A shard's index: from `index`, from this host, or what `build` makes of the shard, kept.

        Args:
          path: of the shard.
          part: name of what is kept beside the main index.
          names: of the index's columns.
          version: of the format that reads them.
          build: makes them; its errors pass through.

        Raises OSError if the shard cannot be found.
        """
        if self.index:
            columns = self._shared_index(path, part=part, names=names, version=version)
            if columns is not None:
                return columns
        return index_file.load(
            self.index_places(path, part=part),
            names=names,
            version=version,
            identity=self.identity(path),
            owner=self.owner(path),
            build=build,
        )

    def _shared_index(
        self, path: str, *, part: str, names: Sequence[str], version: int
    ) -> index_file.Columns | None:
        """The one in the folder `index`, if it fits; whether a remote shard is still the same is
        seen when it is fetched."""
        path_of_index = shared_index(path, folder=self.index, part=part)
        try:
            columns = index_file.parse(remote.read(path_of_index), names=names)
            stored_version, *identity = columns["numbers"][:3].tolist()
        except FileNotFoundError as error:
            if not part:  # folders of older versions have no parts
                log.warning("index %s cannot be used (%s)", path_of_index, error)
            return None
        except Exception as error:  # damage shows in more ways than can be listed
            log.warning("index %s cannot be used (%s)", path_of_index, error)
            return None
        same = remote.is_remote(path) or tuple(identity) == self.identity(path)
        return columns if stored_version == version and same else None

    def identity(self, path: str) -> tuple[int, int]:
        """A shard's bytes and mtime in ns; of a remote one a number that changes with it.

        Raises OSError if it cannot be found.
        """
        if remote.is_remote(path):
            return remote_identity(path)
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns

    def owner(self, path: str) -> int:
        """User id whose indexes are trusted for this shard."""
        return os.geteuid() if remote.is_remote(path) else os.stat(path).st_uid

    def opened(self, path: str, *, opener: Callable[[str], T]) -> T:
        """opener(local file of the shard); again where another process made room in between.

        Raises OSError if a remote shard cannot be fetched, and what `opener` raises.
        """
        for attempt in itertools.count():
            try:
                return opener(self.local(path))
            except FileNotFoundError:
                if not remote.is_remote(path) or attempt == REOPENED:
                    raise
        raise AssertionError("unreachable")

    def local(self, path: str) -> str:
        """A local file with the shard's content, fetched if need be.

        Raises OSError if there is no such shard, for a while after that at once, and RemoteError if
        it does not come.
        """
        if not remote.is_remote(path):
            return path
        copy = self.copy_of(path)
        if not os.path.exists(copy):
            self._fetch(path, copy)
        with contextlib.suppress(OSError):  # what is evicted goes by this time; the mtime stays
            os.utime(copy, ns=(time.time_ns(), os.stat(copy).st_mtime_ns))
        return copy

    def copy_of(self, path: str) -> str:
        """Where the copy of a remote shard lies, or will."""
        return os.path.join(self.folder, COPIES, index_file.unique_name(path))

    def _fetch(self, path: str, copy: str) -> None:
        files.make_folder(os.path.dirname(copy), setting="config.data.cache_dir", mode=private.MODE)
        failed = f"{copy}.failed"
        with files.open_file(f"{copy}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers often want the same shard at once
            if os.path.exists(copy):
                return
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.stat(failed).st_mtime < FORGET_FAILURE:
                    raise OSError(f"{urls.shown(path)} was not there a moment ago")
                files.remove(failed)
            try:
                identity = remote_identity(path)
                remote.fetch(path, to=f"{copy}.part", size=identity[0])
                os.utime(f"{copy}.part", ns=(time.time_ns(), identity[1]))
                files.move(f"{copy}.part", copy)
            except OSError:
                with contextlib.suppress(CleanExit):
                    files.write(failed, "")
                raise
            self._make_room(keep=copy)

    def _make_room(self, *, keep: str) -> None:
        entries = []
        with os.scandir(os.path.dirname(keep)) as folder:
            for entry in folder:
                if not entry.name.endswith((".lock", ".part", ".failed")):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        entries.append((status.st_atime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries):
            if total <= self.cache_bytes:
                break
            if place != keep:
                with contextlib.suppress(CleanExit):  # processes that have it open go on
                    files.remove(place)
                    total -= size


class OpenFile:
    """A local file that threads may read from; closed when the last reference goes.

    A cache of these may drop one while a thread still reads: closing it there and then would hand
    its number to the next file opened, and the thread would read that one.
    """

    _fd = -1  # until it is open

    def __init__(self, path: str):
        self.path = path
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a file")
        self.length = status.st_size
        self.identity = (status.st_size, status.st_mtime_ns)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)

    def has_changed(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        status = os.fstat(self._fd)
        return (status.st_size, status.st_mtime_ns) != self.identity

    def read(self, size: int, *, offset: int) -> bytes:
        """`size` bytes, or fewer where the file ends."""
        data = os.pread(self._fd, size, offset)
        while 0 < len(data) < size:  # network file systems may give a part at a time
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


def shared_index(path: str, *, folder: str, part: str = "") -> str:
    """Where in a folder made by `clipjax.dataset index` a shard's index, or a part of it, lies."""
    return f"{folder.rstrip('/')}/{index_file.unique_name(path)}{part and f'.{part}'}.npz"


@functools.lru_cache(1 << 16)
def remote_identity(path: str) -> tuple[int, int]:
    """Bytes of a remote file, and a hash of its version as a time in ns, in whole seconds.

    Not every file system keeps finer times. Asked for once a process.
    """
    size, version = remote.describe(path)
    return size, remote.version_seconds(version) * 10**9
