"""The index of one tar shard: which samples it holds, and where. Used by `sources.tar`.

A sample is all members that share directory and name up to the first dot of the base name, and
the rest of the name is the extension: `000/000012.jpg` and `000/000012.txt`, as img2dataset and
WebDataset have it. Made once by reading every header, and kept as an .npz file beside the shard
or, where that cannot be written, in a cache folder.
"""

import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import stat
import tempfile
import zipfile
import zlib
from array import array

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources.tar_reader import BLOCK, NOT_A_FILE, OpenTar, members

FORMAT = 1  # raise it when what is stored changes
CACHE_FOLDER = "~/.cache/clipjax/tar"
MAX_NAME = 4096  # bytes; longer than any file system allows
MAX_EXTENSION = 64
MAX_EXTENSIONS = 256  # different ones in a shard; more are taken for noise
LARGEST = 2**32 - 1

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
    """M members of N samples, in the order of the shard; samples in that of their first member."""

    numbers: np.ndarray  # int64 [6], in the order of the properties below
    members: np.ndarray  # uint32 [4, M]: sample, extension, offset in blocks of 512 bytes, size
    keys: np.ndarray  # uint8: all sample keys, one after the other
    key_ends: np.ndarray  # uint32 [N]
    extensions: np.ndarray  # uint8: lower case, one a line, in the order `members` counts them

    @property
    def version(self) -> int:
        """FORMAT of the program that made it."""
        return int(self.numbers[0])

    @property
    def identity(self) -> tuple[int, int]:
        """The shard's bytes, and its mtime in ns."""
        return int(self.numbers[1]), int(self.numbers[2])

    @property
    def digest(self) -> int:
        """CRC32 of all but `numbers`."""
        return int(self.numbers[3])

    @property
    def ignored(self) -> tuple[int, int]:
        """Members that are no regular files, and that have no usable name."""
        return int(self.numbers[4]), int(self.numbers[5])

    @property
    def extension_names(self) -> list[str]:
        """The extensions by their number in `members`."""
        return self.extensions.tobytes().decode().split("\n")


COLUMNS = tuple(field.name for field in dataclasses.fields(Index))


def load(path: str, *, cache_dir: str = "") -> Index:
    """The index of a shard: from a cache, if one fits its size and mtime, else made and kept.

    Args:
      path: of the tar.
      cache_dir: folder to keep indexes in; "" is beside the shard, or else CACHE_FOLDER.

    Raises:
      DataError: the shard cannot be used as a tar.
      OSError: it cannot be read.
    """
    file = OpenTar(path)
    places = cache_files(path, cache_dir=cache_dir)
    for place in places:
        found = read(place, identity=file.identity, owner=os.stat(path).st_uid)
        if found is not None:
            return found
    index = build(file)
    for place in places:
        with contextlib.suppress(OSError):
            write(index, place)
            break
    else:
        log.warning("index of %s cannot be kept in %s; it is made each time", path, places[-1])
    return index


def build(file: OpenTar) -> Index:
    """The index of an open shard, from all of its headers; DataError as for `members`."""
    table = array("I")  # four numbers a member; lists of integers would take ten times as much
    rows: dict[bytes, int] = {}
    kinds: dict[bytes, int] = {}
    links = unnamed = 0
    for name, offset, length in members(file):
        if length == NOT_A_FILE:
            links += 1
            continue
        name = name.removeprefix(b"./")
        base = name.rfind(b"/") + 1
        dot = name.find(b".", base)
        if dot <= base or len(name) > MAX_NAME:  # no extension, or a hidden file such as ._a.jpg
            unnamed += 1
            continue
        extension = name[dot + 1 :].lower()
        if extension not in kinds and (len(kinds) == MAX_EXTENSIONS or not plain(extension)):
            unnamed += 1
            continue
        if offset // BLOCK > LARGEST:
            raise DataError(f"tar shard {file.path}: larger than 2 TB; split it")
        sample = rows.setdefault(name[:dot], len(rows))
        number = kinds.setdefault(extension, len(kinds))
        table.extend((sample, number, offset // BLOCK, min(length, LARGEST)))
    if OpenTar(file.path).identity != file.identity:
        raise DataError(f"tar shard {file.path}: is being written; start again when it is complete")
    columns = {
        "members": np.ascontiguousarray(np.frombuffer(table, np.uint32).reshape(-1, 4).T),
        "keys": np.frombuffer(b"".join(rows), np.uint8),
        "key_ends": np.cumsum([len(key) for key in rows], dtype=np.uint32),
        "extensions": np.frombuffer(b"\n".join(kinds), np.uint8),
    }
    digest = 0
    for column in columns.values():
        digest = zlib.crc32(column.tobytes(), digest)
    numbers = np.array([FORMAT, *file.identity, digest, links, unnamed], np.int64)
    return Index(numbers=numbers, **columns)


def plain(extension: bytes) -> bool:
    """Whether an extension can stand in a list of lines and in a message."""
    text = extension.decode("ascii", errors="replace")
    return 0 < len(extension) <= MAX_EXTENSION and text.isascii() and text.isprintable()


def cache_files(path: str, *, cache_dir: str = "") -> list[str]:
    """Where the index of a shard may lie, best first."""
    full = os.path.abspath(path)
    unique = hashlib.sha256(os.fsencode(full)).hexdigest()[:16]
    named = f"{os.path.basename(full)}-{unique}.npz"
    folder = os.path.join(os.path.expanduser(cache_dir or CACHE_FOLDER), named)
    return [folder] if cache_dir else [f"{full}.index.npz", folder]


def read(place: str, *, identity: tuple[int, int], owner: int) -> Index | None:
    """A kept index, or None: there is none, or it is old, damaged, or strangers could write it.

    Args:
      place: the .npz file.
      identity: the shard's bytes and mtime in ns.
      owner: user id of the shard's owner, trusted like this user and root.
    """
    try:
        status = os.lstat(place)
        ours = status.st_uid in (os.geteuid(), owner, 0)
        if not (stat.S_ISREG(status.st_mode) and ours and not status.st_mode & 0o022):
            return None
        with zipfile.ZipFile(place) as archive:  # which compares checksums, as np.load would not
            stored = {name: archive.read(f"{name}.npy") for name in COLUMNS}
        arrays = {
            name: np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            for name, data in stored.items()
        }
        index = Index(**arrays)
        return index if (index.version, index.identity) == (FORMAT, identity) else None
    except Exception as error:  # damage shows in more ways than can be listed; the remedy is one
        if not isinstance(error, FileNotFoundError):
            log.warning("index %s is damaged (%s); making it again", place, error)
        return None


def write(index: Index, place: str) -> None:
    """Keep an index, whole or not at all, writable by this user alone; OSError if it cannot be."""
    folder = os.path.dirname(place)
    make_folder(folder)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".index-")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{name: getattr(index, name) for name in COLUMNS})
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def make_folder(folder: str) -> None:
    """Make a folder and those above it, for this user alone; the umask may leave more open."""
    if not os.path.isdir(folder):
        make_folder(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
