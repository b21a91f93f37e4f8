"""Why a record cannot be used, from the source that noticed to the counters, the log and the error.

Sources, `images` and `captions` raise it; `clipjax.data.examples` replaces the record, and
`clipjax.training.bad_records` and `clipjax.curation.check` count by `reason`.
"""


class BadRecord(ValueError):
    """A record cannot be used.

    Args:
      reason: a few words without anything particular to this record, so that counters can group by
        them: "no such file".
      detail: what is particular to it: "photos/0.jpg, looked in /data".
      key: the record's, where the message should begin with it.
    """

    def __init__(self, reason: str, detail: str = "", key: str = ""):
        super().__init__(reason, detail, key)
        self.reason = reason
        self.detail = detail
        self.key = key

    @property
    def message(self) -> str:
        """Reason and detail on one line, without the key: "no such file (photos/0.jpg, …)"."""
        text = f"{self.reason} ({self.detail})" if self.detail else self.reason
        return text if text.isprintable() else ascii(text)[1:-1]

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message
