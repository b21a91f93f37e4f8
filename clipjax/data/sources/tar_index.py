"""What lies where in a tar shard, from its headers alone: nothing is extracted.

`members` walks the headers: V7, POSIX ustar, PAX and GNU, as in POSIX.1-2017 (pax) and the GNU tar
manual. A sample is all members that share directory and name up to the first dot of the base name,
and the rest of the name is the extension: `000/000012.jpg` and `000/000012.txt`, as img2dataset and
WebDataset have it. The index of a shard's samples is made once, and kept (`index_file`) beside the
shard or, where that cannot be written, in a cache folder; `sources.tar` reads by offset afterwards.

A shard of more than MAX_MEMBERS members, or whose samples' names are longer than MAX_KEYS together,
is refused: making the index takes up to 250 bytes a sample, and its name twice, so 0.5 GB at most.
A million members, 33 times what img2dataset puts into a shard, are indexed in about 7 seconds.
"""

import dataclasses
from array import array
from collections.abc import Callable, Iterator

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources import index_file
from clipjax.data.sources.shard_files import COMPRESSED, REMEDY, OpenFile, ShardFiles

FORMAT = 1  # raise it when what is stored changes
MAX_MEMBERS = 1 << 20
MAX_KEYS = 128 << 20  # bytes of all samples' names
MAX_NAME = 4096  # bytes; longer than any file system allows
MAX_EXTENSION = 64
MAX_EXTENSIONS = 256  # different ones in a shard; more are taken for noise
LARGEST = 2**32 - 1

BLOCK = 512
ZEROS = bytes(BLOCK)
NOT_A_FILE = -1  # size given for members without content that could be read
MAX_EXTENDED = 1 << 20  # bytes of a long name or of PAX records
MAX_PADDING = 1 << 20  # zeros after the end marker; GNU tar writes 10 KiB, other blockings more

REGULAR = (b"0", b"\0", b"7")
DIRECTORY = b"5"
SPARSE = b"S"
WITHOUT_DATA = (b"1", b"2", b"3", b"4", DIRECTORY, b"6")  # links, devices, folders, pipes
LONG_NAME, LONG_LINK = b"L", b"K"
PAX, PAX_SOLARIS, PAX_GLOBAL = b"x", b"X", b"g"
USED = (b"path", b"size")  # PAX records that tell something here, and any that begins with
SPARSE_RECORD = b"GNU.sparse."
EXTENDED = (LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL)

Fail = Callable[[int, str], DataError]


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
        build=lambda: vars(build(files.opened(path, opener=OpenFile))),
    )
    return Index(**columns)


def build(file: OpenFile) -> Index:
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


def members(file: OpenFile) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of the content, size in bytes) of every member but folders, in order.

    Size is NOT_A_FILE for links, devices, pipes and sparse files. Names are as stored: they may
    be absolute, hold "..", or occur twice.

    Raises:
      DataError: not a tar, compressed, damaged, cut short, or with something after its end.
    """

    def fail(at: int, why: str) -> DataError:
        return DataError(
            f"tar shard {file.path}: {why} at byte {at:,} of {file.length:,}; {REMEDY}"
        )

    everywhere: dict[bytes, bytes] = {}  # PAX records for all members that follow
    own: dict[bytes, bytes] = {}  # PAX records and the long name of the next member
    offset = 0
    while (header := file.read(BLOCK, offset=offset)) != ZEROS:
        if offset == 0 and (len(header) < BLOCK or not has_valid_sum(header)):
            raise not_a_tar(file, header)
        if len(header) < BLOCK:
            raise fail(offset, "no end marker, so it is cut short,")
        if not has_valid_sum(header):
            raise fail(offset, "damaged header")
        size = octal_or_binary(header[124:136])
        kind = header[156:157]
        offset += BLOCK
        if size < 0:
            raise fail(offset, "damaged size in a header")
        if kind in EXTENDED:
            if size > MAX_EXTENDED:
                raise fail(offset, f"extended header of {size:,} bytes")
            data = file.read(size, offset=offset)
            if kind == LONG_NAME:
                own[b"path"] = until_zero(data)
            elif kind != LONG_LINK:
                into = everywhere if kind == PAX_GLOBAL else own
                into.update(pax_records(data, at=offset, fail=fail))
            offset += padded(size)
            continue
        name, regular = name_in(header), kind in REGULAR
        if everywhere or own:
            fields = {**everywhere, **own}
            own = {}
            name = fields.get(b"path") or name
            if written := fields.get(b"size"):
                if not written.isdigit():
                    raise fail(offset, "damaged size in PAX records")
                size = int(written[:20])
            regular = regular and SPARSE_RECORD not in fields
        if kind == SPARSE:
            offset = after_sparse_map(file, header, offset=offset)
        if kind in WITHOUT_DATA:
            size = 0
        if offset + size > file.length:
            raise fail(offset, f"cut short: a member of {size:,} bytes begins")
        if kind != DIRECTORY and not name.endswith(b"/"):
            yield name, offset, size if regular else NOT_A_FILE
        offset += padded(size)
    rest = file.length - offset
    if rest > MAX_PADDING or any(file.read(rest, offset=offset)):
        raise fail(offset, "end marker, with more after it (several tars joined, or damaged),")


def not_a_tar(file: OpenFile, header: bytes) -> DataError:
    """The error for a file that does not begin as a tar does."""
    for magic, command in COMPRESSED.items():
        if header.startswith(magic):
            why = f"compressed, so records cannot be read by index; uncompress it ({command})"
            return DataError(f"tar shard {file.path}: {why}")
    why = "not a tar file" if len(header) == BLOCK else f"empty or cut short, {len(header)} bytes"
    return DataError(f"tar shard {file.path}: {why}; {REMEDY}")


def has_valid_sum(header: bytes) -> bool:
    """Whether the bytes add up to the sum written in the header, itself counted as spaces."""
    written = octal_or_binary(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if total == written:
        return True
    signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    return signed == written  # some old programs added signed bytes


def octal_or_binary(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 after a first bit of 1; -1 if neither."""
    if field[0] & 0x80:
        return -1 if field[0] == 0xFF else int.from_bytes(field) - (0x80 << 8 * (len(field) - 1))
    digits = until_zero(field).strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else -1  # int() would also take "+1" and "1_0"
    except ValueError:
        return -1


def until_zero(field: bytes) -> bytes:
    end = field.find(0)
    return field if end < 0 else field[:end]


def padded(size: int) -> int:
    """Bytes that `size` bytes take up in whole blocks."""
    return size + -size % BLOCK


def name_in(header: bytes) -> bytes:
    """The name that the header itself holds: up to 100 bytes, in ustar with 155 before them."""
    name = until_zero(header[:100])
    if header[345] and header[257:263] == b"ustar\0":  # GNU's header has times in that place
        return until_zero(header[345:500]) + b"/" + name
    return name


def pax_records(data: bytes, *, at: int, fail: Fail) -> dict[bytes, bytes]:
    """Records "LENGTH key=value\\n", where the length is that of the whole record.

    Those that are USED; SPARSE_RECORD stands for all that begin with it. Others are not kept, as
    there may be any number of them.
    """
    found: dict[bytes, bytes] = {}
    data = data.rstrip(b"\0")
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 20)
        length = data[start:space]
        end = start + int(length) if space > 0 and length.isdigit() else 0
        key, equals, value = data[space + 1 : max(end - 1, 0)].partition(b"=")
        if not (space < end <= len(data) and equals and data[end - 1 : end] == b"\n"):
            raise fail(at + start, "damaged PAX records")
        if key in USED:
            found[key] = value
        elif key.startswith(SPARSE_RECORD):
            found[SPARSE_RECORD] = b""
        start = end
    return found


def after_sparse_map(file: OpenFile, header: bytes, *, offset: int) -> int:
    """Where the content of an old GNU sparse file begins: after further blocks of its map."""
    more = header[482]
    while more:
        block = file.read(BLOCK, offset=offset)
        offset += BLOCK
        more = len(block) == BLOCK and block[504]
    return offset
