"""Some records of a source, by a file of one bit a record.

`python -m clipjax.dataset balance` and `dedup` write such files; `config.data.keep` names one, so
that a selection trains, converts and is checked without copying data. The file is a few lines of
text and then the bits, least significant first.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.data.source import Shards, Source, View

BLOCK = 512  # bytes of bits between two running counts
PIECE = 1 << 20  # bytes of bits looked at together
ENDING = ".keep"
MAGIC = b"clipjax keep 1\n"


class SelectionWriter:
    """Writes a file of bits, range by range; what is not written is not kept.

    Args:
      path: ends in ENDING; local or remote.
      length: records of the source.
      fingerprint: of the source.
    """

    def __init__(self, path: str, *, length: int, fingerprint: str):
        if not path.endswith(ENDING):
            raise ConfigError(f"--output={path}: must end in {ENDING}")
        self.path = path
        self._header = MAGIC + f"{length}\n{fingerprint}\n".encode()
        self.bits = np.zeros((length + 7) // 8, np.uint8)

    def write(self, first: int, keep: np.ndarray) -> None:
        """Whether to keep the records from `first` on, bool; `first` is a multiple of 8."""
        packed = np.packbits(keep, bitorder="little")
        self.bits[first // 8 : first // 8 + len(packed)] = packed

    def close(self) -> None:
        """Make the file appear, whole; raises as `files.write`."""
        files.write(self.path, self._header + self.bits.tobytes())


def read(path: str) -> tuple[int, str, np.ndarray]:
    """(records, the source's fingerprint, bits uint8) of a file; ConfigError or DataError."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            magic, length, fingerprint = (file.readline(200) for _ in range(3))
            offset = file.tell()
    except OSError as error:
        raise ConfigError(f"config.data.keep: cannot read {path} ({error.strerror})") from None
    size = os.path.getsize(os.path.expanduser(path)) - offset
    if magic != MAGIC or not length.strip().isdigit() or size != (int(length) + 7) // 8:
        raise DataError(f"config.data.keep: {path} is no selection, or cut short; make it again")
    bits = np.memmap(os.path.expanduser(path), np.uint8, "r", offset=offset)
    return int(length), fingerprint.decode().strip(), bits


class Selected(View):
    """The records of a source that a file keeps; everything else is as in the source.

    Args:
      source: the records.
      path: of the file.

    Raises:
      ConfigError: there is no such file.
      DataError: it is damaged, is for another source, or keeps nothing.
    """

    def __init__(self, source: Source, *, path: str):
        self.source = source
        self.path = path
        self._start()
        length, fingerprint, _ = read(path)
        if (length, fingerprint) != (len(source), source.fingerprint):
            raise DataError(
                f"config.data.keep: {path} was made for another source than {source.name}, or"
                " before it changed; make it again"
            )
        if not len(self):
            raise DataError(f"config.data.keep: {path} keeps none of {length:,} records")
        self.fingerprint = f"{source.fingerprint}&{digest(self.bits)}"

    @functools.cached_property
    def shards(self) -> Shards | None:
        """The source's, with as many records as are kept of each."""
        shards = self.source.shards
        if shards is None:
            return None
        kept = np.array([self.rank(int(end)) for end in np.cumsum(shards.lengths)])
        return dataclasses.replace(shards, lengths=np.diff(kept, prepend=0).tolist())

    @property
    def kept(self) -> np.ndarray:
        return self.bits

    def _start(self) -> None:
        _, _, self.bits = read(self.path)
        blocks = np.add.reduceat(
            np.bitwise_count(self.bits), np.arange(0, len(self.bits), BLOCK), dtype=np.int64
        )
        self._ends = np.cumsum(blocks)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("bits", "_ends")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rank(self, index: int) -> int:
        """How many of the source's first `index` records are kept."""
        block, rest = divmod(index, 8 * BLOCK)
        before = int(self._ends[block - 1]) if block else 0
        inside = self.bits[block * BLOCK : (block + 1) * BLOCK]
        return before + int(np.unpackbits(inside, bitorder="little")[:rest].sum())

    def place(self, index: int) -> int:
        """The source's index of a kept record."""
        index = self.checked(index)
        block = int(np.searchsorted(self._ends, index, side="right"))
        rest = index - (int(self._ends[block - 1]) if block else 0)
        inside = self.bits[block * BLOCK : (block + 1) * BLOCK]
        within = np.flatnonzero(np.unpackbits(inside, bitorder="little"))[rest]
        return block * BLOCK * 8 + int(within)


def unfold(path: str, *, selected: Selected) -> None:
    """Rewrite a selection made of `selected` as one of the source behind it."""
    length, _, inner = read(path)
    source = selected.source
    writer = SelectionWriter(path, length=len(source), fingerprint=source.fingerprint)
    outer = selected.bits
    taken = 0
    for first in range(0, len(outer), PIECE):
        keep = np.unpackbits(outer[first : first + PIECE], bitorder="little").astype(bool)
        some = int(keep.sum())
        begin = taken // 8
        bits = np.unpackbits(inner[begin : (taken + some + 7) // 8], bitorder="little")
        keep[keep] = bits[taken - 8 * begin :][:some].astype(bool)
        writer.write(8 * first, keep)
        taken += some
    assert taken == length
    writer.close()


def digest(bits: np.ndarray) -> str:
    """A short hash of the bits, read piece by piece."""
    hasher = hashlib.sha256()
    for piece in pieces(bits):
        hasher.update(piece)
    return hasher.hexdigest()[:16]


def pieces(bits: np.ndarray, *, size: int = PIECE) -> Iterator[bytes]:
    """The bytes of an array, a piece at a time."""
    for first in range(0, len(bits), size):
        yield bits[first : first + size].tobytes()
