"""Indexes of shards, kept as .npz files so that each shard is walked once.

The formats (`tar_index`, `tfrecord`, `table`) make the columns; this module keeps and finds them.
Every index has a column "numbers" that begins with the format's version, the shard's bytes, its
mtime in ns and a CRC32 of the other columns.
"""

import contextlib
import hashlib
import io
import logging
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clipjax.common import files, private
from clipjax.common.exits import ConfigError, WriteError

CACHE_FOLDER = "~/.cache/clipjax"

Columns = dict[str, np.ndarray]
Identity = tuple[int, int]

log = logging.getLogger(__name__)


def cache_folder() -> str:
    """The full path of `CACHE_FOLDER`, or where there is no home folder, of a temporary one."""
    folder = os.path.expanduser(CACHE_FOLDER)
    if folder == CACHE_FOLDER:
        return os.path.join(tempfile.gettempdir(), f"clipjax-{os.geteuid()}")
    return folder


def numbers(
    columns: Mapping[str, np.ndarray],
    *,
    version: int,
    identity: Identity,
    more: Sequence[int] = (),
) -> np.ndarray:
    """The column "numbers", int64, for the other columns of an index."""
    digest = 0
    for column in columns.values():
        digest = zlib.crc32(column.tobytes(), digest)
    return np.array([version, *identity, digest, *more], np.int64)


def load(
    places: Sequence[str],
    *,
    names: Sequence[str],
    version: int,
    identity: Identity,
    owner: int,
    build: Callable[[], Columns],
) -> Columns:
    """The kept index that fits `version` and `identity`, else what `build` makes, kept.

    Args:
      places: where it may lie, best first; kept in the first that can be written.
      names: of its columns.
      identity: the shard's bytes and mtime in ns.
      owner: user id of the shard's owner, trusted like this user and root.
      build: makes it from the shard; its errors pass through.
    """
    for place in places:
        columns = read(place, names=names, version=version, identity=identity, owner=owner)
        if columns is not None:
            return columns
    columns = build()
    for place in places:
        with contextlib.suppress(ConfigError, WriteError):
            write(columns, place)
            break
    else:
        log.warning("index %s cannot be kept; it is made each time", places[-1])
    return columns


def read(
    place: str, *, names: Sequence[str], version: int, identity: Identity | None, owner: int
) -> Columns | None:
    """A kept index, or None: there is none, or it is old, damaged, or strangers could write it.

    `identity` None takes any.
    """
    try:
        status = os.lstat(place)
        if not (stat.S_ISREG(status.st_mode) and private.is_ours(status, trusted=(owner,))):
            return None
        with open(place, "rb") as file:
            columns = parse(file.read(), names=names)
    except Exception as error:  # damage shows in more ways than can be listed; the remedy is one
        if not isinstance(error, FileNotFoundError):
            log.warning("index %s is damaged (%s); making it again", place, error)
        return None
    stored = columns["numbers"]
    fits = identity is None or tuple(stored[1:3].tolist()) == tuple(identity)
    return columns if fits and int(stored[0]) == version else None


def parse(data: bytes, *, names: Sequence[str]) -> Columns:
    """The columns in the bytes of an .npz; raises anything where they are damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # compares checksums; np.load would not
        return {
            name: np.lib.format.read_array(
                io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False
            )
            for name in names
        }


def write(columns: Columns, place: str) -> None:
    """Keep an index, whole or not at all, writable by this user alone; as `files.write`."""
    files.make_folder(os.path.dirname(place), mode=private.MODE)
    files.write_arrays(place, columns)


def unique_name(path: str) -> str:
    """A file name for something kept about `path`: its base name and a hash of the whole."""
    full = path if "://" in path else os.path.abspath(path)
    unique = hashlib.sha256(os.fsencode(full)).hexdigest()[:16]
    plain = os.path.basename(
        full.partition("?")[0]
    )  # signed addresses are longer than names may be
    return f"{plain[:100]}-{unique}"
