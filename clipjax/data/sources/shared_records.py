"""How many records two sources share, so that an evaluation on training data is known as one.

Records are known by where they lie, and a copy by its fingerprint: `clipjax.overlap` looks at the
pictures themselves. `build_data` asks, the summary of a run and its reports tell.
"""

from typing import Any

import numpy as np

from clipjax.data.sources.selection import Selected

Extent = tuple[str, int, int]  # where records lie, the first one there, the one after the last


def count(one: Any, other: Any) -> int:
    """How many records of `one` are records of `other`, as far as their places and the selections
    of `config.data.keep` tell; of a cut to `max_examples`, at most so many."""
    shared = sum(_count(one, part) for part in getattr(other, "parts", {"": other}).values())
    return min(shared, len(one))


def note(shared: int, *, of: int) -> str:
    """What to know of a figure when so many of the records measured on are training data."""
    if shared == of:
        return "measured on training data"
    return f"{shared:,} of {of:,} records are training data"


def _count(one: Any, other: Any) -> int:
    mine, theirs = whole(one), whole(other)
    if _is_same(mine, theirs):
        kept, also_kept = _selection(one), _selection(other)
        if kept is None or also_kept is None:
            return min(len(one), len(other))
        return int(np.bitwise_count(kept.bits & also_kept.bits).sum())
    places: dict[str, list[tuple[int, int]]] = {}
    for where, first, end in extents(theirs):
        places.setdefault(where, []).append((first, end))
    return sum(
        max(min(end, their_end) - max(first, their_first), 0)
        for where, first, end in extents(mine)
        for their_first, their_end in places.get(where, ())
    )


def extents(source: Any) -> list[Extent]:
    """Where the records of a source lie; one place by its fingerprint where it tells none."""
    return getattr(source, "extents", None) or [(source.fingerprint, 0, len(source))]


def whole(source: Any) -> Any:
    """The source itself, or what it was selected from."""
    inner = getattr(source, "source", None)
    return source if inner is None else whole(inner)


def _selection(source: Any) -> Selected | None:
    if isinstance(source, Selected):
        return source
    inner = getattr(source, "source", None)
    return None if inner is None else _selection(inner)


def _is_same(one: Any, other: Any) -> bool:
    """Whether both have the same fingerprint, which may hold sizes only, and first record."""
    if one.fingerprint != other.fingerprint:
        return False
    try:
        return extents(one) == extents(other) or one[0]["image"] == other[0]["image"]
    except (ValueError, OSError):  # a record that cannot be read
        return True
