"""tf.train.Example, a protocol buffer, without TensorFlow or protobuf: bytes features only.

The layout is that of tensorflow/core/example/{example,feature}.proto. Read by `tfrecord`, written
by `clipjax.curation.convert`.
"""

from collections.abc import Iterator, Mapping, Sequence

from clipjax.data.bad_record import BadRecord


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
        elif kind == 0:
            _, at = varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise BadRecord("damaged Example", "unknown kind of field")


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
