"""Sources and pictures in memory for the data tests; at module level, so that workers find them."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from clipjax.data.source import Source

WORDS = ("fox", "owl", "pizza", "boat", "left", "of", "right", "above", "red", "blue", "green")


def photo(index: int, *, width: int, height: int) -> Image.Image:
    """A smooth picture, another for each index."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def sentence(index: int) -> str:
    """A caption, another for each index."""
    rng = np.random.default_rng([7, index])
    return f"{' '.join(rng.choice(WORDS, size=6))} {index}"


@dataclasses.dataclass(frozen=True)
class FakeSource(Source):
    """`length` JPEGs with captions; records whose index is in `broken` have no valid image."""

    length: int = 40
    name: str = "fake"
    fingerprint: str = "fake-1"
    width: int = 24
    height: int = 20
    broken: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    uncaptioned: tuple[int, ...] = ()
    captions_each: int = 1

    def __len__(self) -> int:
        return self.length

    def caption(self, index: int) -> str | list[str]:
        if index in self.uncaptioned:
            return "  \x00 "
        if self.captions_each == 1:
            return sentence(index)
        return [f"{sentence(index)} number {n}" for n in range(self.captions_each)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.unreadable:
            raise OSError(f"record {index} cannot be read")
        image = encode(photo(index, width=self.width, height=self.height))
        return {
            "image": image[: len(image) // 2] if index in self.broken else image,
            "text": self.caption(index),
            "key": f"record-{index}",
        }


@dataclasses.dataclass(frozen=True)
class FakeTokenizer:
    """Characters as ids; quick, and it can be pickled."""

    context_length: int = 16

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros((len(texts), self.context_length), dtype=np.int32)
        for row, text in enumerate(texts):
            codes = [ord(letter) for letter in text][: self.context_length]
            ids[row, : len(codes)] = codes
        return ids, np.array([len(text) > self.context_length for text in texts])


def write_tfrecord(path, payloads) -> str:
    """A TFRecord file, its checksums from a slow CRC of our own."""
    with open(path, "wb") as file:
        for payload in payloads:
            head = len(payload).to_bytes(8, "little")
            file.write(head + masked(head) + payload + masked(payload))
    return str(path)


def masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def example(**features: Any) -> bytes:
    """A serialised tf.train.Example: bytes, text, lists of these, or whole numbers."""

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    entries = b""
    for name, value in features.items():
        if isinstance(value, int):
            feature = field(3, field(1, varint(value)))
        else:
            values = value if isinstance(value, list) else [value]
            encoded = [v.encode() if isinstance(v, str) else v for v in values]
            feature = field(1, b"".join(field(1, v) for v in encoded))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
