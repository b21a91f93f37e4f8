"""Finding images that are there twice, or in an evaluation set: `python -m clipjax.dataset dedup`.

Two records are duplicates if their files are equal or if perceptual hashes of 64 bits differ in at
most a few: re-encoded, resized and slightly edited copies do. Of several duplicates the first
stays, with its own captions alone; what is in an evaluation set goes altogether. 25 bytes of memory
a record.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.curation import workers
from clipjax.data import captions, images
from clipjax.data.same_image import digest
from clipjax.data.source import BadRecord
from clipjax.data.sources.selection import Selected, SelectionWriter, unfold

CHUNK = 256  # records
SIDE = 32  # pixels of the grey picture that is hashed
LOW = 8  # lowest frequencies in each direction: 64 bits
FLAT = 4.0  # standard deviation in levels below which a picture has nothing to hash
MAX_DISTANCE = 7  # bits; time grows with the square of the records, 16 times more from 3 to 7
PAIRS = 1 << 22  # compared at a time
TOLD = 20


def dedup(
    source: Any,
    *,
    against: Mapping[str, Any],
    path: str,
    distance: int,
    num_workers: int,
    show: bool = True,
) -> dict[str, Any]:
    """Write the selection without duplicates, and tell what they were.

    Args:
      source: the records.
      against: evaluation sets by name; a record that is in one is left out.
      path: of the file to write, see `clipjax.data.sources.selection`.
      distance: bits that two hashes of copies may differ in, 0 to MAX_DISTANCE.
      num_workers: processes; 0 works here.
      show: whether there are progress bars.

    Returns:
      {"records", "unusable", "duplicates", "other captions": duplicates whose captions are not
      those of the record that stays, "in": {name: records}, "kept", "examples": [(key, why)]}
    """
    writer = SelectionWriter(path, length=len(source), fingerprint=source.fingerprint)
    own = hashes(source, num_workers=num_workers, show=show)
    usable = own["usable"]
    first = first_copies(own, distance=distance)
    repeated = first != np.arange(len(source))
    examples = [
        (source.key(int(index)), f"copy of {source.key(int(first[index]))}")
        for index in np.flatnonzero(repeated)[:TOLD]
    ]
    keep = usable & ~repeated
    other_captions = usable & repeated & (own["captions"] != own["captions"][first])
    inside = {}
    for name, other in against.items():
        theirs = hashes(other, num_workers=num_workers, show=show)
        copies = copies_in(own, theirs, distance=distance)
        inside[name] = int((copies >= 0).sum())
        keep &= copies < 0
        examples += [
            (source.key(int(index)), f"in {name}: {other.key(int(copies[index]))}")
            for index in np.flatnonzero(copies >= 0)[:TOLD]
        ]
    writer.write(0, keep)
    writer.close()
    if isinstance(source, Selected):
        unfold(path, selected=source)
    return {
        "records": len(source),
        "unusable": int((~usable).sum()),
        "duplicates": int((usable & repeated).sum()),
        "other captions": int(other_captions.sum()),
        "in": inside,
        "kept": int(keep.sum()),
        "examples": examples,
    }


def hashes(source: Any, *, num_workers: int, show: bool = True) -> dict[str, np.ndarray]:
    """{"exact", "perceptual", "captions": uint64 [N], "usable": bool [N]}; of flat pictures and
    unusable ones the perceptual hash is the exact one."""
    chunks = workers.spans(len(source), size=CHUNK)
    parts = list(
        workers.results(
            functools.partial(hash_some, source=source),
            chunks,
            num_workers=num_workers,
            unit="record",
            sizes=[len(chunk) for chunk in chunks],
            show=show,
        )
    )
    names = ("exact", "perceptual", "captions", "usable")
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(names, columns, strict=True))


def hash_some(indices: Sequence[int], *, source: Any) -> tuple[np.ndarray, ...]:
    """(exact, perceptual, captions, usable) of some records; a pure function of them."""
    exact, perceptual, texts = (np.zeros(len(indices), np.uint64) for _ in range(3))
    usable = np.zeros(len(indices), bool)
    for row, index in enumerate(indices):
        try:
            record = source.read(index)
            data = record["image"]
            texts[row] = digest("\n".join(captions.usable(record.get("text") or "")).encode())
            exact[row] = digest(data)
            perceptual[row] = perceptual_hash(data) or exact[row]
            usable[row] = True
        except BadRecord:
            # Unlike any other, so that damaged records are no copies of one another.
            exact[row] = perceptual[row] = digest(f"unusable {index}".encode())
    return exact, perceptual, texts, usable


def perceptual_hash(data: bytes) -> int:
    """64 bits of what an image looks like, 0 for a flat one; raises BadImage.

    The signs of its 8 × 8 lowest cosine frequencies against their median, as in Zauner, "Rank:
    Implementation and benchmarking of perceptual image hash functions" (2010), section 3.2.1.
    """
    grey = images.grey(data, side=SIDE)
    if grey.std() < FLAT:
        return 0
    basis = cosines(SIDE)[:LOW]
    low = (basis @ grey @ basis.T).ravel()
    low[0] = 0.0  # brightness
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


@functools.cache
def cosines(size: int) -> np.ndarray:
    """The cosine transform's matrix (DCT-II, unscaled), float64 [size, size]."""
    steps = np.arange(size)
    return np.cos(np.pi / size * (steps[None] + 0.5) * steps[:, None])


def first_copies(own: Mapping[str, np.ndarray], *, distance: int) -> np.ndarray:
    """The first record that each record is a copy of, or itself: int64 [N].

    A copy of a copy is one too, even where the first of all is further away.
    """
    _, where, back = np.unique(own["exact"], return_index=True, return_inverse=True)
    first = where[back]  # equal files
    values, where, back = np.unique(own["perceptual"], return_index=True, return_inverse=True)
    nearest = where.copy()
    for left, right in near_pairs(values, values, distance=distance):
        np.minimum.at(nearest, left, where[right])
    return np.minimum(first, nearest[back])


def copies_in(
    own: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], *, distance: int
) -> np.ndarray:
    """One of the other set's records that each record is a copy of, or -1: int64 [N]."""
    values, where = np.unique(theirs["perceptual"], return_index=True)
    mine, back = np.unique(own["perceptual"], return_inverse=True)
    nearest = np.full(len(mine), -1)
    for left, right in near_pairs(mine, values, distance=distance):
        nearest[left] = where[right]
    result = nearest[back]
    exact, where = np.unique(theirs["exact"], return_index=True)
    at = np.minimum(np.searchsorted(exact, own["exact"]), len(exact) - 1)
    same = exact[at] == own["exact"]
    return np.where(same, where[at], result)


def near_pairs(
    left: np.ndarray, right: np.ndarray, *, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places in two uint64 arrays whose values differ in at most `distance` bits.

    Cut into one band more than `distance`, values that near agree in at least one band, so only
    those are compared. Yields (places in left, places in right), int64 each.
    """
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        of_left, of_right = ((values >> np.uint64(low)) & mask for values in (left, right))
        order = np.argsort(of_right, kind="stable")
        mine = np.argsort(of_left, kind="stable")
        bands, begins = np.unique(of_left[mine], return_index=True)
        ends = np.append(begins[1:], len(mine))
        starts = np.searchsorted(of_right[order], bands, side="left")
        stops = np.searchsorted(of_right[order], bands, side="right")
        for begin, end, start, stop in zip(begins, ends, starts, stops, strict=True):
            columns = order[start:stop]
            step = max(PAIRS // max(len(columns), 1), 1)
            for first in range(begin, end if len(columns) else begin, step):
                rows = mine[first : min(first + step, end)]
                apart = np.bitwise_count(left[rows][:, None] ^ right[columns][None])
                a, b = np.nonzero(apart <= distance)
                yield rows[a], columns[b]


def describe(found: dict[str, Any]) -> str:
    """The result as lines."""
    others = found["other captions"]
    more = f", {others:,} of them with captions that the first copy has not: these go too"
    more = more if others else ""
    lines = [
        f"records       {found['records']:,}",
        f"unusable      {found['unusable']:,}",
        f"duplicates    {found['duplicates']:,}{more}",
        *(f"in {name}: {count:,}" for name, count in found["in"].items()),
        f"kept          {found['kept']:,}",
    ]
    return "\n".join([*lines, *(f"  {key}: {why}" for key, why in found["examples"][:TOLD])])
