"""Choosing pairs so that no query takes more than its share: `python -m clipjax.dataset balance`.

CLIP's data hold at most 20,000 pairs for each of 500,000 queries (Radford et al. 2021, section
2.2). The construction is MetaCLIP's (Xu et al. 2023, algorithm 1): count the pairs that match each
query; a query with n matches keeps one with chance t / max(n, t); a pair stays if any of its
queries keeps it. Pairs that match nothing are left out. Two passes over the captions; memory does
not grow with the pool, and the file of results has a bit for each record.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.curation import workers
from clipjax.curation.matching import Matcher
from clipjax.data import captions
from clipjax.data.sources.selection import Selected, SelectionWriter, unfold

CHUNK = 8192  # records; a multiple of 8, so that chunks do not share a byte of bits
PER_QUERY = 20_000  # t in both papers at full size


def balance(
    source: Any,
    *,
    matcher: Matcher,
    path: str,
    per_query: int,
    seed: int,
    num_workers: int,
    show: bool = True,
) -> dict[str, Any]:
    """Write the selection, and tell how it went.

    Args:
      source: the pool.
      matcher: of Q queries.
      path: of the file to write, see `clipjax.data.sources.selection`.
      per_query: t, about how many pairs a frequent query keeps.
      seed: of the draw; the same record is always drawn alike, wherever it lies.
      num_workers: processes; 0 works here.
      show: whether there are progress bars.

    Returns:
      {"records", "matched", "kept", "before": int64 [Q], "after": int64 [Q]}, the last two the
      pairs that match each query.
    """
    writer = SelectionWriter(path, length=len(source), fingerprint=source.fingerprint)
    spread = functools.partial(
        workers.results,
        chunks=workers.spans(len(source), size=CHUNK),
        num_workers=num_workers,
        unit="record",
        sizes=[len(span) for span in workers.spans(len(source), size=CHUNK)],
        show=show,
    )
    before = np.zeros(len(matcher.queries), np.int64)
    matched = 0
    for counts, some in spread(functools.partial(count, source=source, matcher=matcher)):
        np.add.at(before, counts[0], counts[1])
        matched += some
    chances = keep_chances(before, per_query=per_query)
    after = np.zeros_like(before)
    draw = functools.partial(select, source=source, matcher=matcher, chances=chances, seed=seed)
    kept = first = 0
    for keep, counts in spread(draw):
        writer.write(first, keep)
        np.add.at(after, counts[0], counts[1])
        kept += int(keep.sum())
        first += len(keep)
    writer.close()
    if isinstance(source, Selected):
        unfold(path, selected=source)
    return {
        "records": len(source),
        "matched": matched,
        "kept": kept,
        "before": before,
        "after": after,
    }


def keep_chances(counts: np.ndarray, *, per_query: int) -> np.ndarray:
    """Float64 [Q]: the chance that a query keeps one of its pairs."""
    return per_query / np.maximum(counts, per_query)


def count(
    indices: Sequence[int], *, source: Any, matcher: Matcher
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """((queries, pairs that match each), records that match any) of some records."""
    matches = [matcher(texts_of(source, index)) for index in indices]
    return sums(matches), sum(len(numbers) > 0 for numbers in matches)


def select(
    indices: Sequence[int], *, source: Any, matcher: Matcher, chances: np.ndarray, seed: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Whether each of some records is kept, bool, and the matches of those kept as in `count`."""
    keep = np.zeros(len(indices), bool)
    matches = []
    for row, index in enumerate(indices):
        numbers = matcher(texts_of(source, index))
        if not len(numbers):
            continue
        chance = 1.0 - np.prod(1.0 - chances[numbers])
        keep[row] = uniform(source.key(index), seed=seed) < chance
        if keep[row]:
            matches.append(numbers)
    return keep, sums(matches)


def texts_of(source: Any, index: int) -> list[str]:
    """A record's cleaned captions; none if it cannot be read."""
    try:
        return captions.usable(source.caption(index))
    except (ValueError, OSError):
        return []


def uniform(key: str, *, seed: int) -> float:
    """A number in [0, 1) that follows from the record's key and the seed alone."""
    digest = hashlib.blake2b(f"{seed}\n{key}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def sums(found: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(queries, how often each occurs)."""
    joined = np.concatenate(found) if found else np.zeros(0, np.int64)
    return np.unique(joined, return_counts=True)


def describe(found: dict[str, Any], *, queries: Sequence[str], per_query: int) -> str:
    """The result as lines."""
    before, after = found["before"], found["after"]
    frequent = before > per_query
    total = max(int(before.sum()), 1)
    top = np.argsort(-before, kind="stable")[:5]
    most = ", ".join(f"{queries[n]!r} {before[n]:,} → {after[n]:,}" for n in top if before[n])
    return "\n".join(
        [
            f"records                   {found['records']:,}",
            f"that match a query        {found['matched']:,}",
            f"kept                      {found['kept']:,}",
            f"queries without a match   {int((before == 0).sum()):,} of {len(before):,}",
            f"queries above {per_query:,}      {int(frequent.sum()):,}, with"
            f" {before[frequent].sum() / total:.1%} of {total:,} matches",
            f"most frequent             {most or 'none'}",
        ]
    )


def plot(found: dict[str, Any], *, per_query: int) -> Any:
    """A matplotlib figure: matches of each query, before and after, the most frequent first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axis = figure.subplots()
    for name, label, color in (
        ("before", f"pool of {found['records']:,}", "#b04a2f"),
        ("after", f"kept {found['kept']:,}", "#1f6f9f"),
    ):
        counts = np.sort(found[name])[::-1]
        counts = counts[counts > 0]
        axis.plot(np.arange(1, len(counts) + 1), counts, color=color, label=label)
    axis.axhline(per_query, color="#8a8a8a", linewidth=1, linestyle=":", label=f"t = {per_query:,}")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="queries, the most frequent first",
        ylabel="pairs that match the query",
        title="How often each query occurs, before and after balancing",
    )
    if not np.any(found["before"]):  # a logarithmic axis has no room for nothing
        axis.set_xlim(1, 10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
