"""What image files hold beside their pixels: texts, profiles, EXIF. None of it is used here.

Pillow refuses a file for a fault in these, or for their length. `clipjax.data.images` then takes
them out and tries again. Layouts: the PNG specification (W3C, third edition), section 5, and
ITU-T T.81, annex B.
"""

import struct
import zlib
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
JPEG_MAGIC = b"\xff\xd8\xff"
JFIF, ADOBE = 0xE0, 0xEE  # say what the colours mean
SHORTEST = {JFIF: 14, ADOBE: 12}  # bytes that decoders read of them
DROPPED = (*range(0xE0, 0xF0), 0xFE)  # applications' segments and comments
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # headers of frames; the others are tables
SCAN = 0xDA
MOST = 16 << 20  # bytes that one compressed text or profile may unpack to


class TooMuch(ValueError):
    """A text or profile unpacks to more than MOST bytes."""


def without(data: bytes) -> bytes:
    """A PNG or JPEG file without its metadata; other bytes, and damaged ones, as they are.

    Raises TooMuch where they are made to fill the memory.
    """
    if data.startswith(PNG_MAGIC):
        kept = []
        for kind, body, chunk in chunks(data):
            if kind in PNG_KEPT or kind[:1].isupper():  # one that decoders must understand
                kept.append(chunk)
            elif len(unpacked(kind, body)) > MOST:
                raise TooMuch
        return PNG_MAGIC + b"".join(kept)
    if data.startswith(JPEG_MAGIC):
        end = 2
        kept = [data[:end]]
        for marker, segment in segments(data):
            end += len(segment)
            if marker not in DROPPED or len(segment) - 4 >= SHORTEST.get(marker, len(data)):
                kept.append(segment)
        return b"".join(kept) + data[end:]
    return data


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, body, all of it) of each chunk of a PNG, as far as they are whole."""
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield kind, data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        at += 12 + size


def unpacked(kind: bytes, body: bytes) -> bytes:
    """What a chunk's compressed text or profile unpacks to, MOST + 1 bytes of it; b"" for none."""
    _, _, packed = body.partition(b"\0")  # after the keyword
    if kind == b"iTXt":
        is_packed, packed = packed[:1], packed[2:].split(b"\0", 2)[-1]
        if is_packed != b"\1":
            return b""
    elif kind in (b"zTXt", b"iCCP"):
        packed = packed[1:]
    else:
        return b""
    try:
        return zlib.decompressobj().decompress(packed, MOST + 1)
    except zlib.error:
        return b""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, all of it) of a JPEG's segments before its first scan, as far as they are whole."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != SCAN:
        (size,) = struct.unpack_from(">H", data, at + 2)
        if size < 2 or at + 2 + size > len(data):
            return
        yield data[at + 1], data[at : at + 2 + size]
        at += 2 + size


def jpeg_bits(data: bytes) -> int:
    """Bits of a sample in a JPEG; 0 where no header tells."""
    if not data.startswith(JPEG_MAGIC):
        return 0
    frames = (segment for marker, segment in segments(data) if marker in FRAMES)
    return next((frame[4] for frame in frames if len(frame) > 4), 0)
