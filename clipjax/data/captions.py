"""Caption text as it comes from the web, made fit for a tokenizer.

`clipjax.data.examples` cleans and chooses one caption per example, the evaluation loader lists
them all, and the vocabulary trainer samples them.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

MAX_CHARACTERS = 4096  # no context length in use reads this far; bounds the tokenizer's work

# Controls that are not white space, lone surrogates (they cannot be written as UTF-8), zero-width
# space, byte order mark and non-characters.
UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u200b\ufeff\ufffe\uffff]")


class BadCaption(ValueError):
    """A record has no usable caption; the message is a short reason that counters can group by."""


class HasCaptions(Protocol):
    """The part of a source that this module reads."""

    def __len__(self) -> int: ...

    def caption(self, index: int, /) -> str | Sequence[str]: ...


def clean(text: str | bytes) -> str:
    """One line of text: controls removed, white space collapsed, at most MAX_CHARACTERS long.

    Bytes are read as UTF-8; sequences that are not UTF-8 are dropped. The result may be empty.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="ignore")
    return " ".join(UNWANTED.sub("", text.lstrip()[:MAX_CHARACTERS]).split())


def usable(text: str | bytes | Sequence[str]) -> list[str]:
    """A record's captions, cleaned, without the empty ones, in order."""
    candidates = [text] if isinstance(text, (str, bytes)) else text
    return [caption for caption in map(clean, candidates) if caption]


def choose(text: str | bytes | Sequence[str], *, rng: np.random.Generator) -> str:
    """One of a record's captions, cleaned, each with the same chance.

    Raises:
      BadCaption: none is left after cleaning.
    """
    candidates = usable(text)
    if not candidates:
        raise BadCaption("empty caption")
    return candidates[int(rng.integers(len(candidates)))] if len(candidates) > 1 else candidates[0]


def sample(source: HasCaptions, *, limit: int) -> Iterator[str]:
    """All usable captions of at most `limit` records, spread evenly over the source.

    Records that cannot be read are left out: the training stream counts them, not this.
    """
    length = len(source)
    count = min(limit, length)
    for step in range(count):
        try:
            yield from usable(source.caption(step * length // count))
        except (ValueError, OSError):
            continue
