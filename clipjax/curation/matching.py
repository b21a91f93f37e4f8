"""Which queries of a list a caption contains, for hundreds of thousands of queries at once.

As MetaCLIP does it (Xu et al. 2023, arXiv 2309.16671, released code): marks , . ; : ? ! ` stand
alone, and a query matches where it occurs between two spaces. Needs package pyahocorasick
(Aho-Corasick: time in proportion to the caption, however many queries).
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import ConfigError
from clipjax.data.sources import remote

MARKS = ",.;:?!`"
SPACED = str.maketrans({mark: f" {mark} " for mark in MARKS} | dict.fromkeys("\t\n\r", " "))


def spaced(text: str) -> str:
    """The text with marks between spaces, and a space before and after it."""
    return f" {text} ".translate(SPACED)


class Matcher:
    """Finds queries in captions. Can be pickled.

    Args:
      queries: Q different texts.
      lower_case: whether "Dog" matches "dog"; MetaCLIP keeps case as it is.

    Raises:
      ConfigError: pyahocorasick is not installed, or there are no queries.
    """

    def __init__(self, queries: Sequence[str], *, lower_case: bool = False):
        if not queries:
            raise ConfigError("--queries: holds no queries")
        self.queries = list(queries)
        self.lower_case = lower_case
        self._build()

    def _build(self) -> None:
        try:
            import ahocorasick
        except ImportError:
            raise ConfigError(
                'matching queries needs package pyahocorasick: pip install "clipjax[curation]"'
            ) from None
        self._automaton: Any = ahocorasick.Automaton()
        for number, query in enumerate(self.queries):
            text = query.lower() if self.lower_case else query
            self._automaton.add_word(f" {text} ", number)
        self._automaton.make_automaton()

    def __getstate__(self) -> dict[str, Any]:
        return {"queries": self.queries, "lower_case": self.lower_case}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._build()

    def __call__(self, texts: Iterable[str]) -> np.ndarray:
        """The numbers of all queries in any of a record's captions, ascending, each once."""
        numbers = set()
        for text in texts:
            text = text.lower() if self.lower_case else text
            numbers.update(number for _, number in self._automaton.iter(spaced(text)))
        return np.array(sorted(numbers), dtype=np.int64)


def read_queries(path: str) -> list[str]:
    """Queries from a file, local or remote, one a line; the first of several equal ones stays.

    Raises ConfigError if it cannot be read.
    """
    try:
        text = remote.read(path).decode("utf-8")
        lines = (" ".join(line.split()) for line in io.StringIO(text, newline=None))
        return list(dict.fromkeys(line for line in lines if line))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--queries={path}: cannot be read ({error})") from None
