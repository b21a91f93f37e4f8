"""What lies where in a tar file, from its headers alone: nothing is extracted.

`sources.tar_index` walks `members` once per shard; `sources.tar` reads by offset afterwards. The
formats are V7, POSIX ustar, PAX and GNU, as in POSIX.1-2017 (pax) and the GNU tar manual.
"""

import os
import stat
from collections.abc import Callable, Iterator

from clipjax.common.exits import DataError

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
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
}

REMEDY = "copy or write it again, or leave it out of config.data.path"

Fail = Callable[[int, str], DataError]


class OpenTar:
    """An open file that threads may read from; closed when the last reference goes.

    A cache of these may drop one while a thread still reads: closing it there and then would hand
    its number to the next file opened, and the thread would read that one.
    """

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
        if hasattr(self, "_fd"):
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


def members(file: OpenTar) -> Iterator[tuple[bytes, int, int]]:
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


def not_a_tar(file: OpenTar, header: bytes) -> DataError:
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


def after_sparse_map(file: OpenTar, header: bytes, *, offset: int) -> int:
    """Where the content of an old GNU sparse file begins: after further blocks of its map."""
    more = header[482]
    while more:
        block = file.read(BLOCK, offset=offset)
        offset += BLOCK
        more = len(block) == BLOCK and block[504]
    return offset
