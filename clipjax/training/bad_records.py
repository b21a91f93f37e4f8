"""Counting records that could not be used, and stopping when there are too many."""

import logging
from typing import Any

import numpy as np

from clipjax.common.exits import DataError

AT_LEAST = 20  # bad records before the fraction means anything
TOLD = 10  # bad records named one by one

log = logging.getLogger(__name__)


class BadRecords:
    """Counts since the start of the process.

    Args:
      max_fraction: of the records read; above it training stops.
    """

    def __init__(self, *, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.seen = 0
        self.bad = 0

    def count(self, info: dict[str, Any]) -> dict[str, int]:
        """Count a batch's rows; returns this batch's {"bad": …, "truncated": …, "cleaned": …}.

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
        return {"bad": len(wrong), **captions}
