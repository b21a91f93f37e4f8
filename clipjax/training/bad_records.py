"""Counting records that could not be used, and stopping when there are too many."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError

AT_LEAST = 20  # bad records before the fraction means anything
TOLD = 10  # bad records named one by one
REASONS = (  # as `clipjax.data` words them
    *("too many pixels", "too small", "extreme aspect ratio", "not a JPEG, PNG or WebP image"),
    *("damaged image", "empty caption", "unreadable record"),
)

log = logging.getLogger(__name__)


class BadRecords:
    """Counts since the start of the process.

    Args:
      max_fraction: of the records read; above it training stops.
      sources: names, counted apart where there are several.
    """

    def __init__(self, *, max_fraction: float, sources: Sequence[str] = ()) -> None:
        self.sources = tuple(sources) if len(sources) > 1 else ()
        self.max_fraction = max_fraction
        self.seen = 0
        self.bad = 0

    def count(self, info: dict[str, Any]) -> dict[str, int]:
        """Count a batch's rows; returns this batch's {"bad": …, "truncated": …, "cleaned": …}.

        Bad ones are also counted by reason and by source, "bad/too_small" and "bad/SOURCE".

        Raises:
          DataError: too large a part of the records read could not be used; names the last.
        """
        wrong = np.flatnonzero(info["bad"] != "")
        self.seen += len(info["bad"])
        for row in wrong[: max(TOLD - self.bad, 0)]:
            log.warning("record %s replaced: %s", info["bad_key"][row], info["bad"][row])
        self.bad += len(wrong)
        if self.bad >= AT_LEAST and self.bad > self.max_fraction * self.seen:
            row = wrong[-1]
            raise DataError(
                f"data: {self.bad:,} of {self.seen:,} records could not be used, more than"
                f" config.data.max_bad_fraction={self.max_fraction}; the last was"
                f" {info['bad_key'][row]} of {info['source'][row]} ({info['bad'][row]})"
            )
        captions = {name: int(np.sum(info[name])) for name in ("truncated", "cleaned")}
        reasons, sources = info["bad"][wrong], info["source"][wrong]
        by_reason = {f"bad/{_slug(r)}": int(np.sum(reasons == r)) for r in REASONS}
        by_source = {f"bad/{name}": int(np.sum(sources == name)) for name in self.sources}
        return {"bad": len(wrong), **captions, **by_reason, **by_source}


def _slug(reason: str) -> str:
    return re.sub(r"\W+", "_", reason.lower())
