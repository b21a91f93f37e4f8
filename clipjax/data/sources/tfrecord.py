"""TFRecord files of tf.train.Examples as a source: img2dataset's, or any with named features.

In the registry of `clipjax.data.sources` as "tfrecord". Read by index without TensorFlow; an
index of where records lie is made once a file. TFDS data sets prepared as TFRecord are better
read as source "tfds", which knows their features.

A record is its length (uint64), a checksum of that, the payload, and a checksum of the payload;
checksums are CRC32C, rotated and shifted (tensorflow/core/lib/io/record_writer.h).
"""

import dataclasses
import functools
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import google_crc32c
import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.source import BadRecord
from clipjax.data.sources import index_file, tf_example
from clipjax.data.sources.fields import Nulls
from clipjax.data.sources.shard_files import COMPRESSED, REMEDY, OpenFile, ShardFiles
from clipjax.data.sources.shard_format import Format, Table
from clipjax.data.sources.sharded import open_shards

FORMAT = 1  # raise it when what is stored changes
COLUMNS = ("offsets", "sizes", "numbers")
HEADER = struct.Struct("<QI")
FRAME = HEADER.size + 4  # bytes of a record beside its payload
MAX_RECORD = 256 << 20
READ_AHEAD = 1 << 16
MASK_DELTA = 0xA282EAD8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordTable(Table):
    """Where the records of a file lie."""

    offsets: np.ndarray  # uint64 [n]
    sizes: np.ndarray  # uint32 [n]


@dataclasses.dataclass(frozen=True)
class TfrecordFormat(Format):
    """TFRecord as a `shard_format.Format`; fields are the features of an Example."""

    kind: ClassVar[str] = "TFRecord file"
    ending: ClassVar[str] = ".tfrecord"

    def load(self, path: str, *, files: ShardFiles) -> RecordTable:
        return load_table(path, files=files)

    def null_finder(self, table: RecordTable, /) -> Callable[[OpenFile], Nulls]:
        """Any record may lack a feature, or have it without a value."""
        return lambda file: self.names.nulls(filled(file, table, row) for row in range(len(table)))

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        error = super().no_pairs(name, samples=samples, seen=seen)
        if tf_example.FEATURE_LISTS not in seen:
            return error
        return DataError(
            f"{error}; these are SequenceExamples, whose feature_lists are not read: write image"
            " and text as features of tf.train.Examples"
        )

    def image(self, file: OpenFile, table: RecordTable, row: int, /) -> bytes:
        features = read(file, table, row)
        values = features.get(self.names.image_in(features), [])
        if not values:
            raise BadRecord("no image feature", f"features: {', '.join(features) or 'none'}")
        return values[0]

    def text(self, file: OpenFile, table: RecordTable, row: int, /) -> Any:
        features = read(file, table, row)
        return self.names.texts_of(
            {
                name: values[0] if len(values) == 1 else values
                for name, values in features.items()
                if values
            }
        )

    def fields(self, file: OpenFile, table: RecordTable, row: int, /) -> Sequence[str]:
        return list(read(file, table, row))


open_tfrecords = functools.partial(open_shards, TfrecordFormat)


def load_table(path: str, *, files: ShardFiles) -> RecordTable:
    """Where the records of a file lie; DataError if it is damaged, OSError if it cannot be read."""

    def build() -> index_file.Columns:
        file = files.opened(path, opener=OpenFile)
        starts, sizes = offsets(file)
        columns = {"offsets": starts, "sizes": sizes}
        counted = index_file.numbers(columns, version=FORMAT, identity=file.identity)
        return {**columns, "numbers": counted}

    columns = files.load_index(path, names=COLUMNS, version=FORMAT, build=build)
    _, size, mtime, digest = columns["numbers"].tolist()
    return RecordTable(
        identity=(size, mtime),
        digest=digest,
        samples=len(columns["sizes"]),
        offsets=columns["offsets"],
        sizes=columns["sizes"],
    )


def read(file: OpenFile, table: RecordTable, row: int) -> dict[str, list[bytes]]:
    """The features of one record; BadRecord if it is damaged."""
    data = payload(file, int(table.offsets[row]), int(table.sizes[row]))
    return tf_example.decode(data)


def filled(file: OpenFile, table: RecordTable, row: int) -> list[str] | None:
    """Names of the features of one record that hold bytes, read without these; None if damaged."""
    offset, size = int(table.offsets[row]), int(table.sizes[row])
    try:
        return tf_example.filled(
            lambda at, count: file.read(count, offset=at), offset=offset, size=size
        )
    except (BadRecord, OSError):
        return None


def offsets(file: OpenFile) -> tuple[np.ndarray, np.ndarray]:
    """(offset, size) of every payload, uint64 and uint32 [N], from the lengths alone.

    Raises DataError where a length is damaged or the file is cut short.
    """

    def fail(why: str) -> DataError:
        return DataError(
            f"TFRecord file {file.path}: {why} at byte {at:,} of {file.length:,}; {REMEDY}"
        )

    starts, sizes = array("Q"), array("I")
    at, buffer, buffer_at = 0, b"", 0
    while at < file.length:
        if at + HEADER.size > buffer_at + len(buffer):
            buffer, buffer_at = file.read(READ_AHEAD if len(sizes) < 2 else 512, offset=at), at
        head = buffer[at - buffer_at : at - buffer_at + HEADER.size]
        if len(head) < HEADER.size:
            raise fail("cut short")
        size, checksum = HEADER.unpack(head)
        if masked_crc(head[:8]) != checksum:
            for magic, command in COMPRESSED.items():
                if at == 0 and head.startswith(magic):
                    raise fail(f"compressed; uncompress it ({command}),")
            raise fail("damaged length" if at else "not a TFRecord file: no length")
        if size > MAX_RECORD:
            raise fail(f"record of {size:,} bytes")
        if at + FRAME + size > file.length:
            raise fail("cut short: a record begins")
        starts.append(at + HEADER.size)
        sizes.append(size)
        at += FRAME + size
    return np.frombuffer(starts, np.uint64), np.frombuffer(sizes, np.uint32)


def payload(file: OpenFile, offset: int, size: int) -> bytes:
    """One record's payload; BadRecord if it is cut short or its checksum is wrong."""
    data = file.read(size + 4, offset=offset)
    if len(data) < size + 4:
        raise BadRecord("the file ends within this record")
    if masked_crc(data[:size]) != int.from_bytes(data[size:], "little"):
        raise BadRecord("wrong checksum")
    return data[:size]


def masked_crc(data: bytes) -> int:
    """The stored form of the CRC32C of some bytes."""
    return mask(google_crc32c.value(data))


def mask(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF
