"""The index of one tar shard: which samples it holds, and where. Used by `sources.tar`.

A sample is all members that share directory and name up to the first dot of the base name, and
the rest of the name is the extension: `000/000012.jpg` and `000/000012.txt`, as img2dataset and
WebDataset have it. Made once by reading every header, and kept (`index_file`) beside the shard or,
where that cannot be written, in a cache folder.

A shard of more than MAX_MEMBERS members, or whose samples' names are longer than MAX_KEYS together,
is refused: making the index takes up to 250 bytes a sample, and its name twice, so 0.5 GB at most.
A million members, 33 times what img2dataset puts into a shard, are indexed in about 7 seconds.
"""

import dataclasses
from array import array

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources import index_file
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar_reader import BLOCK, NOT_A_FILE, OpenTar, members

FORMAT = 1  # raise it when what is stored changes
MAX_MEMBERS = 1 << 20
MAX_KEYS = 128 << 20  # bytes of all samples' names
MAX_NAME = 4096  # bytes; longer than any file system allows
MAX_EXTENSION = 64
MAX_EXTENSIONS = 256  # different ones in a shard; more are taken for noise
LARGEST = 2**32 - 1


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
        """CRC32 of all other columns."""
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


def load(path: str, *, files: ShardFiles) -> Index:
    """The index of a shard: a kept one, if it fits its size and mtime, else made and kept.

    Args:
      path: of the tar, local or remote.
      files: where indexes are kept, and copies of remote shards.

    Raises:
      DataError: the shard cannot be used as a tar.
      OSError: it cannot be read.
    """
    columns = files.load_index(
        path,
        names=COLUMNS,
        version=FORMAT,
        build=lambda: vars(build(files.opened(path, opener=OpenTar))),
    )
    return Index(**columns)


def build(file: OpenTar) -> Index:
    """The index of an open shard, from all of its headers.

    Raises:
      DataError: as for `members`, or there is more in it than the module's bounds allow.
    """

    def too_much(what: str) -> DataError:
        return DataError(f"tar shard {file.path}: {what}; split it into shards of some 10,000")

    table = array("I")  # four numbers a member; lists of integers would take ten times as much
    rows: dict[bytes, int] = {}
    kinds: dict[bytes, int] = {}
    links = unnamed = key_bytes = 0
    for count, (name, offset, length) in enumerate(members(file)):
        if count == MAX_MEMBERS:
            raise too_much(f"more than {MAX_MEMBERS:,} members")
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
        key = name[:dot]
        if key not in rows:
            rows[key] = len(rows)
            key_bytes += len(key)
            if key_bytes > MAX_KEYS:
                raise too_much(f"the names of its samples are longer than {MAX_KEYS:,} bytes")
        number = kinds.setdefault(extension, len(kinds))
        table.extend((rows[key], number, offset // BLOCK, min(length, LARGEST)))
    if file.has_changed():
        raise DataError(f"tar shard {file.path}: is being written; start again when it is complete")
    columns = {
        "members": np.ascontiguousarray(np.frombuffer(table, np.uint32).reshape(-1, 4).T),
        "keys": np.frombuffer(b"".join(rows), np.uint8),
        "key_ends": np.cumsum([len(key) for key in rows], dtype=np.uint32),
        "extensions": np.frombuffer(b"\n".join(kinds), np.uint8),
    }
    counted = index_file.numbers(
        columns, version=FORMAT, identity=file.identity, more=(links, unnamed)
    )
    return Index(numbers=counted, **columns)


def plain(extension: bytes) -> bool:
    """Whether an extension can stand in a list of lines and in a message."""
    text = extension.decode("ascii", errors="replace")
    return 0 < len(extension) <= MAX_EXTENSION and text.isascii() and text.isprintable()
