"""Records of a TFRecord file by index, without TensorFlow.

A record is its length (uint64), a checksum of that, the payload, and a checksum of the payload;
checksums are CRC32C, rotated and shifted (tensorflow/core/lib/io/record_writer.h). Used by
`sources.tfrecord` and, for TFDS data sets prepared as TFRecord, by `sources.tfds_records`.
"""

import struct
from array import array

import google_crc32c
import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources.tar_reader import COMPRESSED, REMEDY, OpenTar

HEADER = struct.Struct("<QI")
FRAME = HEADER.size + 4  # bytes of a record beside its payload
MAX_RECORD = 256 << 20
READ_AHEAD = 1 << 16
MASK_DELTA = 0xA282EAD8


def offsets(file: OpenTar) -> tuple[np.ndarray, np.ndarray]:
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


def payload(file: OpenTar, offset: int, size: int) -> bytes:
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
