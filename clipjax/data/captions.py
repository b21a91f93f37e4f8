"""Caption text as it comes from the web, made fit for a tokenizer.

`clipjax.data.examples` cleans and chooses one caption per example, the evaluation loader lists
them all, and the vocabulary trainer samples them. Class names and templates that people write, one
a line on any system, are read here, too: no byte-order mark or carriage return becomes part of a
prompt.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError
from clipjax.data.source import BadRecord, Source, Texts

MAX_CHARACTERS = 4096  # no context length in use reads this far; bounds the tokenizer's work

# Controls that are not white space, lone surrogates (they cannot be written as UTF-8), zero-width
# space, byte order mark and non-characters.
UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u200b\ufeff\ufffe\uffff]")


LINE_END = re.compile("\r\n|\r|\n")


class BadCaption(BadRecord):
    """A record has no usable caption."""


def clean(text: str | bytes) -> str:
    """One line of text: controls removed, white space collapsed, at most MAX_CHARACTERS long.

    Bytes are read as UTF-8; sequences that are not UTF-8 are dropped. The result may be empty.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="ignore")
    return " ".join(UNWANTED.sub("", text.lstrip()[:MAX_CHARACTERS]).split())


def is_cut_or_altered(text: str | bytes) -> bool:
    """Whether `clean` does more to a text than collapse its white space."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            return True
    return len(text.lstrip()) > MAX_CHARACTERS or UNWANTED.search(text) is not None


def usable(text: Texts) -> list[str]:
    """A record's captions, cleaned, without the empty ones, in order; of all fields."""
    return [clean(candidate) for candidate in candidates(text)]


def choose(
    text: Texts, *, rng: np.random.Generator, weights: Sequence[float] = ()
) -> tuple[str, bool]:
    """One of a record's captions, cleaned, and whether cleaning removed something from it.

    Captions of one field have the same chance. Of several fields the first that has any is taken,
    or, with `weights`, one that has any, with chances in proportion to these.

    Args:
      text: of a record.
      rng: draws the caption, where there is a choice.
      weights: one for each field, in their order; () is first come, first taken.

    Raises:
      BadCaption: none is left after cleaning.
    """
    if isinstance(text, Mapping):
        fields = [candidates(texts) for texts in text.values()]
        present = [number for number, field in enumerate(fields) if field]
        if weights:
            present = [number for number in present if weights[number] > 0]
        if not present:
            raise BadCaption("empty caption")
        chosen = present[0]
        if weights and len(present) > 1:
            ends = np.cumsum([weights[number] for number in present])
            chosen = present[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]
        listed = fields[chosen]
    else:
        listed = candidates(text)
    if not listed:
        raise BadCaption("empty caption")
    one = listed[int(rng.integers(len(listed)))] if len(listed) > 1 else listed[0]
    return clean(one), is_cut_or_altered(one)


def candidates(text: Texts) -> list[str | bytes]:
    """The captions that are not empty once they are clean, as they are."""
    if isinstance(text, Mapping):
        return [one for texts in text.values() for one in candidates(texts)]
    listed = [text] if isinstance(text, str | bytes) else text
    return [one for one in listed if clean(one)]


def sample(source: Source, *, limit: int) -> "Sample":
    """All usable captions of at most `limit` records, see `Source.spread`, to be gone through once.

    Records that cannot be read are left out: the training stream counts them, not this. Going
    through it raises DataError, with the first one's reason, where there is nothing else.
    """
    return Sample(source, limit=limit)


class Sample:
    """What `sample` gives.

    Attributes:
      records: gone through so far.
      unusable: of these, those without a caption that can be read.
      first: why the first of them has none.
    """

    def __init__(self, source: Source, *, limit: int) -> None:
        self.source, self.limit = source, limit
        self.records = self.unusable = 0
        self.first = ""

    def __iter__(self) -> Iterator[str]:
        for index in self.source.spread(limit=self.limit):
            self.records += 1
            try:
                texts, problem = usable(self.source.caption(index)), "empty caption"
            except (ValueError, OSError) as error:
                texts, problem = [], str(error)
            if not texts:
                self.unusable += 1
                self.first = self.first or problem
            yield from texts
        if self.unusable == self.records and self.first not in ("", "empty caption"):
            raise DataError(f"data: no caption can be read; the first: {self.first}")

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Within it, a ConfigError of what is made of too few captions says why they are few.

        Raises:
          DataError: in its place, where most records have no caption that can be read.
        """
        try:
            yield
        except ConfigError as error:
            if not self.unusable:
                raise
            share = f"{self.unusable:,} of {counted(self.records, 'record')}"
            problem = f"{share} have no caption that can be read; the first: {self.first}"
            if 2 * self.unusable > self.records:
                raise DataError(f"data: {problem}") from error
            raise ConfigError(f"{error} ({problem})") from None


def lines(path: Any) -> list[str]:
    """The lines of a file that hold anything; `clean` takes their stray spaces away.

    Raises:
      OSError: it cannot be read.
      DataError: it is not UTF-8.
    """
    return [line for line in LINE_END.split(file_text(path)) if clean(line)]


def file_text(path: Any) -> str:
    """The whole file, local or remote, without a byte-order mark; errors as `lines`."""
    data = epath.Path(path).expanduser().read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
