"""How many records two sources share, so that an evaluation on training data is known as one.

Records are known by where they lie, and a copy by its fingerprint: `clipjax.overlap` looks at the
pictures themselves. `build.data` asks, the summary of a run and its reports tell.
"""

import numpy as np

from clipjax.data.mixture import Joined
from clipjax.data.source import Source


def count(one: Source, other: Source) -> int:
    """How many records of `one` are records of `other`, as far as their places and the selections
    of `config.data.keep` tell; of a cut to `max_examples`, at most so many."""
    parts = other.parts.values() if isinstance(other, Joined) else [other]
    return min(sum(_count(one, part) for part in parts), len(one))


def note(shared: int, *, of: int) -> str:
    """What to know of a figure when so many of the records measured on are training data."""
    if shared == of:
        return "measured on training data"
    return f"{shared:,} of {of:,} records are training data"


def _count(one: Source, other: Source) -> int:
    mine, theirs = one.whole, other.whole
    if _is_same(mine, theirs):
        if one.kept is None or other.kept is None:
            return min(len(one), len(other))
        return int(np.bitwise_count(one.kept & other.kept).sum())
    places: dict[str, list[tuple[int, int]]] = {}
    for where, first, end in theirs.extents:
        places.setdefault(where, []).append((first, end))
    return sum(
        max(min(end, their_end) - max(first, their_first), 0)
        for where, first, end in mine.extents
        for their_first, their_end in places.get(where, ())
    )


def _is_same(one: Source, other: Source) -> bool:
    """Whether both have the same fingerprint, which may hold sizes only, and first record."""
    if one.fingerprint != other.fingerprint:
        return False
    try:
        return one.extents == other.extents or one[0]["image"] == other[0]["image"]
    except (ValueError, OSError):  # a record that cannot be read
        return True
