"""Counting records that could not be used, and stopping when there are too many."""

import collections
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.examples import shard_of
from clipjax.data.source import BadRecord

AT_LEAST = 20  # bad records before the fraction means anything
MEMORY = (
    1_000_000  # records that the fraction is over, about: a shard that goes bad on day five counts
)
TOLD, TELL_SECONDS = 10, 60.0  # bad records named one by one; then one in so many seconds
MOST_SHARDS = 10  # named at the end
OTHER = "unreadable record"
REASONS = (  # with a metric each, as `clipjax.data` words them; those of sources count as OTHER
    *("too many pixels", "too small", "extreme aspect ratio", "not a JPEG, PNG or WebP image"),
    *("damaged image", "no decoder for this image", "not enough memory", "too much metadata"),
    *("empty caption", OTHER),
)

log = logging.getLogger(__name__)


class BadRecords:
    """Counts over about the last MEMORY records that this process read.

    Args:
      max_fraction: of the records read; above it training stops.
      sources: names, counted apart where there are several.
      seen: records that the run had come through before this start. They count as sound, so that
        a restart in the middle of a bad shard judges no harder than the straight run.
    """

    def __init__(self, *, max_fraction: float, sources: Sequence[str] = (), seen: int = 0) -> None:
        self.sources = tuple(sources) if len(sources) > 1 else ()
        self.max_fraction = max_fraction
        self.seen = min(seen, MEMORY)
        self.bad = 0
        self.by_shard: collections.Counter[str] = collections.Counter()
        self.by_reason: collections.Counter[str] = collections.Counter()
        self.read = 0  # since the start, as `by_reason` and `all_by_shard`: for `describe`
        self.all_by_shard: collections.Counter[str] = collections.Counter()
        self.named = self.unnamed = 0
        self.told = time.monotonic()

    def count(self, info: dict[str, Any]) -> dict[str, int]:
        """Count a batch's rows; returns this batch's {"bad": …, "truncated": …, "cleaned": …}.

        Bad ones are also counted by reason and by source, "bad/too_small" and "bad/SOURCE".

        Raises:
          DataError: too large a part of the records read could not be used; names the shard that
            most of them are in.
        """
        wrong = np.flatnonzero(info["bad"] != "")
        self.seen += len(info["bad"])
        self.read += len(info["bad"])
        messages = {row: _message(info, row) for row in wrong.tolist()}
        for row, message in messages.items():
            self._tell(info["bad_key"][row], message)
        self.bad += len(wrong)
        self.by_reason.update(info["bad"][wrong].tolist())
        places = [_place(info["source"][row], info["bad_key"][row]) for row in wrong]
        self.by_shard.update(places)
        self.all_by_shard.update(places)
        if self.seen > 2 * MEMORY:
            self.seen, self.bad = self.seen // 2, self.bad // 2
            self.by_shard = collections.Counter(
                {k: n // 2 for k, n in self.by_shard.items() if n > 1}
            )
        if len(wrong) and self.bad >= AT_LEAST and self.bad > self.max_fraction * self.seen:
            row = wrong[-1]
            (shard, most), *_ = self.by_shard.most_common(1)
            raise DataError(
                f"data: {self.bad:,} of {self.seen:,} records could not be used, more than"
                f" config.data.max_bad_fraction={self.max_fraction}; {most:,} of them are in"
                f" {shard}; the last was {info['bad_key'][row]} ({messages[row]}); since the start:"
                f" {_counts(self.by_reason)}"
            )
        captions = {name: int(np.sum(info[name])) for name in ("truncated", "cleaned")}
        sources = info["source"][wrong]
        reasons = [r if r in REASONS else OTHER for r in info["bad"][wrong].tolist()]
        by_reason = {f"bad/{_slug(r)}": reasons.count(r) for r in REASONS}
        by_source = {f"bad/{name}": int(np.sum(sources == name)) for name in self.sources}
        return {"bad": len(wrong), **captions, **by_reason, **by_source}

    def describe(self) -> str:
        """ "7 of 400 records replaced: 5 damaged image, 2 empty caption; by shard, most first: …",
        of this process since its start; "" where there were none."""
        if not self.by_reason:
            return ""
        reasons = _counts(self.by_reason)
        most = self.all_by_shard.most_common(MOST_SHARDS)
        shards = ", ".join(f"{name} {count:,}" for name, count in most)
        return (
            f"{self.by_reason.total():,} of {self.read:,} records replaced: {reasons}; by shard,"
            f" most first: {shards}"
        )

    def _tell(self, key: str, reason: str) -> None:
        if self.named >= TOLD and time.monotonic() - self.told < TELL_SECONDS:
            self.unnamed += 1
            return
        more = f" ({self.unnamed:,} more since the last one named)" if self.unnamed else ""
        log.warning("record %s replaced: %s%s", key, reason, more)
        self.named, self.unnamed, self.told = self.named + 1, 0, time.monotonic()


def _message(info: dict[str, Any], row: int) -> str:
    """Why the record of a row was replaced, with what else is known of that."""
    details = info.get("bad_detail")
    return BadRecord(info["bad"][row], "" if details is None else details[row]).message


def _counts(counted: collections.Counter[str]) -> str:
    """ "5 damaged image, 2 empty caption", most first."""
    return ", ".join(f"{count:,} {name}" for name, count in counted.most_common())


def _place(source: str, key: str) -> str:
    """Source and shard of a record, "web: 00012.tar"."""
    shard = shard_of(key.removeprefix(f"{source}: "))
    return f"{source}: {shard}" if shard else source


def _slug(reason: str) -> str:
    return re.sub(r"\W+", "_", reason.lower())
