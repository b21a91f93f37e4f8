"""Several captions of one image: records with equal encoded images are that image.

A table of COCO has a row for each caption, and so may tar shards, Parquet or TFRecords. Retrieval
and the loss of evaluators, and suites, take such rows together (`ByImage`), so that they find what
they would find if the captions stood in a list. Training keeps the rows apart: `config.loss.
duplicates` says what equal images of a batch are, by `content_id`; `dataset check` counts them.
"""

import concurrent.futures
import hashlib
import zlib
from collections.abc import Hashable
from typing import Any

import numpy as np

from clipjax.common.counts import counted
from clipjax.data import captions
from clipjax.data.source import BadRecord, Source, Spread, View

THREADS = 8  # that read images; most of the time goes in waiting for a disk
COMPARED = 100_000  # records at most, where only some are to be taken


def digest(data: bytes) -> int:
    """64 bits that tell contents apart."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def content_id(content: bytes) -> np.uint32:
    """A 32-bit checksum: equal for an equal encoded image, or for equal tokens.

    Two of n different contents share one by chance n² / 2³³ times: 0.12 pairs in a batch of 32,768.
    """
    return np.uint32(zlib.crc32(content))


def numbers(source: Source, *, contents: bool = True) -> np.ndarray:
    """int32 [N]: which image each record shows, counted in the order of their first records.

    Every image is read once; a source that knows the file of an image (`image_file`) has it read
    once for all of its rows. An image that cannot be read is like no other. Without `contents`
    files are told apart by their paths, and none is read.
    """
    files = [_file(source, index) for index in range(len(source))]
    firsts: dict[Hashable, int] = {}
    for index, file in enumerate(files):
        firsts.setdefault(file, index)

    def content(index: int) -> Hashable:
        if not contents:
            return index
        try:
            return digest(source[index]["image"])
        except (BadRecord, ValueError, OSError):
            return "unreadable", index

    with concurrent.futures.ThreadPoolExecutor(THREADS, "same-image") as pool:
        known = dict(zip(firsts, pool.map(content, firsts.values()), strict=True))
    found: dict[Hashable, int] = {}
    return np.array([found.setdefault(known[file], len(found)) for file in files], np.int32)


def _file(source: Source, index: int) -> Hashable:
    """What is equal for records of one file: its path where the source knows it, or the index."""
    try:
        return source.image_file(index) or index
    except (BadRecord, ValueError, OSError):
        return index


class ByImage(View):
    """The images of a source, each with the captions of all its records, in their order.

    Args:
      source: the records.
      images: int32 [N], the image of each record, see `numbers`.
    """

    def __init__(self, source: Source, *, images: np.ndarray):
        self.source = source
        order = np.argsort(images, kind="stable")
        ends = np.cumsum(np.bincount(images))
        self.records = np.split(order, ends[:-1])  # of each image
        self.fingerprint = f"{source.fingerprint}/{digest(images.tobytes()):016x}"

    @property
    def notes(self) -> list[str]:
        """What changes how a figure of these images is read."""
        note = f"{len(self.source):,} records are captions of {counted(len(self), 'image')}"
        return [*self.source.notes, note]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The image's first record with all captions; raises as the source does."""
        return {**super().__getitem__(index), "text": self.caption(index)}

    def caption(self, index: int) -> list[str | bytes]:
        """All captions of an image."""
        records = self.records[self.checked(index)]
        texts = (self.source.caption(int(record)) for record in records)
        return [text for some in texts for text in captions.candidates(some)]

    def place(self, index: int) -> int:
        """The image's first record."""
        return int(self.records[self.checked(index)][0])


def by_image(source: Source, *, contents: bool = True) -> Source:
    """The source with the records of an image taken together, or itself where none are two.

    Without `contents` only records of one file are one image, and no image is read.
    """
    images = numbers(source, contents=contents)
    return source if len(images) == images.max(initial=-1) + 1 else ByImage(source, images=images)


def some_images(source: Source, *, limit: int) -> Source:
    """At most `limit` images of a source, all if 0, each with its captions.

    Of more than COMPARED records only the chosen ones are compared: reading all images would take
    longer than to measure on some.
    """
    if not limit:
        return by_image(source)
    if len(source) > COMPARED:
        return by_image(Spread(source, limit))
    return Spread(by_image(source), limit)
