"""tf.train.Example, a protocol buffer, without TensorFlow or protobuf: bytes features only.

The layout is that of tensorflow/core/example/{example,feature}.proto. Read by `tfrecord`, written
by `clipjax.curation.convert`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from clipjax.data.source import BadRecord

FEATURE_LISTS = "feature_lists"  # of a SequenceExample, field 2, as if it were a feature
WINDOW = 4096  # bytes read at a time where content is stepped over
HEAD = 24  # bytes: a tag and a length, or a tag and a number


def decode(example: bytes) -> dict[str, list[bytes]]:
    """The features of an Example by name: the values of bytes lists, [] for numbers.

    Raises BadRecord where the bytes are no Example.
    """
    found: dict[str, list[bytes]] = {}
    for number, feature_map in fields(example):
        if number != 1:
            continue
        for entry_number, entry in fields(feature_map):
            if entry_number != 1:
                continue
            parts = dict(fields(entry))
            values: list[bytes] = []
            for kind, listed in fields(parts.get(2, b"")):
                if kind == 1:
                    values += [value for one, value in fields(listed) if one == 1]
            found[parts.get(1, b"").decode("utf-8", "replace")] = values
    return found


class Walk:
    """Steps through a message in a file without reading what it steps over.

    Args:
      read: gives so many bytes from an offset, fewer where the file ends.
      begin: offset of the message.
      end: offset of its end.
    """

    def __init__(self, read: Callable[[int, int], bytes], *, begin: int, end: int):
        self._read = read
        self._end = end
        self._start = begin
        self._buffer = b""

    def place(self, begin: int, size: int) -> int:
        """Where in the buffer these bytes are, read if need be; fewer where the message ends."""
        if begin < self._start or begin + size > self._start + len(self._buffer):
            self._start = begin
            self._buffer = self._read(begin, min(max(WINDOW, size), self._end - begin))
        return begin - self._start

    def bytes(self, begin: int, end: int) -> bytes:
        """The bytes between two offsets."""
        at = self.place(begin, end - begin)
        return self._buffer[at : at + end - begin]

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, offset, end) of the length-delimited fields between two offsets."""
        while begin < end:
            first = self.place(begin, min(HEAD, end - begin))
            tag, at = varint(self._buffer, first)
            if tag & 7 == 2:
                size, at = varint(self._buffer, at)
                begin += at - first
                if begin + size > end:
                    raise BadRecord("damaged Example", "a field ends outside of it")
                yield tag >> 3, begin, begin + size
                begin += size
            else:
                begin += skipped(self._buffer, at, kind=tag & 7) - first

    def first_fields(self, begin: int, end: int) -> Iterator[list[int]]:
        """[offset, end] of the fields of number 1: the repeated ones of an Example."""
        return (where for number, *where in self.fields(begin, end) if number == 1)


def filled(read: Callable[[int, int], bytes], *, offset: int, size: int) -> list[str]:
    """Names of an Example's features that hold bytes, without reading these; errors as `decode`.

    A tf.train.SequenceExample has FEATURE_LISTS among them.
    """
    names = []
    walk = Walk(read, begin=offset, end=offset + size)
    for number, *features in walk.fields(offset, offset + size):
        if number == 2:
            names.append(FEATURE_LISTS)
        for entry in walk.first_fields(*features) if number == 1 else ():
            parts = {number: where for number, *where in walk.fields(*entry)}
            lists = walk.first_fields(*parts[2]) if 2 in parts else ()
            if any(True for values in lists for _ in walk.first_fields(*values)):
                names.append(walk.bytes(*parts.get(1, (0, 0))).decode("utf-8", "replace"))
    return names


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, content) of a message's length-delimited fields; others are stepped over."""
    at, end = 0, len(message)
    while at < end:
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 2:
            size, at = varint(message, at)
            if at + size > end:
                raise BadRecord("damaged Example", "a field ends outside of it")
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            at = skipped(message, at, kind=kind)


def skipped(message: bytes, at: int, *, kind: int) -> int:
    """Where the next thing begins after a number of this wire type."""
    if kind == 0:
        return varint(message, at)[1]
    if kind not in (1, 5):
        raise BadRecord("damaged Example", "unknown kind of field")
    return at + (8 if kind == 1 else 4)


def varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where the next thing begins."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise BadRecord("damaged Example", "damaged number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def encode(features: Mapping[str, Sequence[bytes]]) -> bytes:
    """An Example of these bytes features."""
    entries = b""
    for name, values in features.items():
        listed = b"".join(_field(1, value) for value in values)
        entries += _field(1, _field(1, name.encode()) + _field(2, _field(1, listed)))
    return _field(1, entries)


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
