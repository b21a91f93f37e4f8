"""A list of queries from text of one's own: `python -m clipjax.dataset queries`.

The paper's list (Radford et al. 2021, section 2.2) is all words that occur at least 100 times in
the English Wikipedia, bigrams with high pointwise mutual information, titles of articles above a
search volume, and WordNet synsets not yet among them. Here the texts, titles and synsets are files
that the user names, such as an extracted Wikipedia dump, one paragraph a line.
"""

import collections
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from clipjax.common.exits import ConfigError
from clipjax.data.sources.shard_files import ShardFiles

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
MAX_BIGRAMS = 20_000_000  # counted at a time: about 3 GB; beyond, rare ones are forgotten
SYNSETS = re.compile(r"^index\.(noun|verb|adj|adv)$")


def build(
    *,
    texts: Sequence[str],
    titles: Sequence[str] = (),
    synsets: Sequence[str] = (),
    min_count: int = 100,
    min_information: float = 10.0,
    min_views: int = 70,
    limit: int = 500_000,
) -> tuple[list[str], dict[str, int]]:
    """The queries, each once, words first, and how many came from each kind.

    Args:
      texts: files of running text.
      titles: files of titles, one a line, with a tab and a number of views or without.
      synsets: files of WordNet ("index.noun" and so on) or of one entry a line.
      min_count: occurrences of a word, and of a bigram.
      min_information: of a bigram, in bits: log2 of how much more often the words occur together
        than they would by chance. The paper names no figure.
      min_views: of a title that has a number.
      limit: queries in all.

    Raises ConfigError if a file cannot be read or nothing is found.
    """
    words = count_words(texts)
    frequent = {word: n for word, n in words.items() if n >= min_count}
    kinds = {
        "words": sorted(frequent, key=lambda word: (-frequent[word], word)),
        "bigrams": bigrams(
            texts, words=frequent, total=words.total(), min_count=min_count, least=min_information
        ),
        "titles": list(read_titles(titles, min_views=min_views)),
        "synsets": list(read_synsets(synsets)),
    }
    found: dict[str, None] = {}
    counts = {}
    for kind, entries in kinds.items():
        already = len(found)
        for entry in entries:
            if len(found) == limit:
                break
            found.setdefault(entry)
        counts[kind] = len(found) - already
    if not found:
        raise ConfigError(f"queries: no word occurs {min_count:,} times in --text, and no titles")
    return list(found), counts


def words_of(line: str) -> list[str]:
    """The words of a line, in lower case."""
    return WORD.findall(line.lower())


def count_words(paths: Iterable[str]) -> collections.Counter[str]:
    """How often each word occurs in these files."""
    counts: collections.Counter[str] = collections.Counter()
    for line in lines_of(paths, flag="text"):
        counts.update(words_of(line))
    return counts


def bigrams(
    paths: Iterable[str], *, words: dict[str, int], total: int, min_count: int, least: float
) -> list[str]:
    """Pairs of frequent words with at least `least` bits of information, the most first.

    Where there are more different pairs than fit (MAX_BIGRAMS), the rare ones are forgotten as it
    goes, and counts of the others may come out a little too low.
    """
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    floor = 1
    for line in lines_of(paths, flag="text"):
        listed = words_of(line)
        counts.update(
            pair for pair in itertools.pairwise(listed) if pair[0] in words and pair[1] in words
        )
        while len(counts) > MAX_BIGRAMS:
            counts = collections.Counter({p: n for p, n in counts.items() if n > floor})
            floor += 1
    scored = []
    for (left, right), n in counts.items():
        if n >= min_count:
            information = math.log2(n * total / (words[left] * words[right]))
            if information >= least:
                scored.append((-information, f"{left} {right}"))
    return [pair for _, pair in sorted(scored)]


def read_titles(paths: Iterable[str], *, min_views: int) -> Iterator[str]:
    """Titles with enough views or without a number; those of other name spaces (":") left out."""
    for line in lines_of(paths, flag="titles"):
        title, _, views = line.rstrip("\n").partition("\t")
        title = " ".join(title.replace("_", " ").split())
        enough = not views.strip().isdigit() or int(views) >= min_views
        if title and ":" not in title and enough:
            yield title


def read_synsets(paths: Iterable[str]) -> Iterator[str]:
    """Lemmas of WordNet's index files (their licence is indented), or of lists."""
    for path in paths:
        indexed = SYNSETS.match(os.path.basename(path))
        for line in lines_of([path], flag="synsets"):
            if indexed and line.startswith(" "):
                continue
            lemma = line.split(" ")[0] if indexed else line
            lemma = " ".join(lemma.replace("_", " ").split())
            if lemma:
                yield lemma


def lines_of(paths: Iterable[str], *, flag: str) -> Iterator[str]:
    """The lines of text files, local or remote; ConfigError if one cannot be read."""
    for path in paths:
        try:
            local = ShardFiles().local(os.path.expanduser(path))
            with open(local, encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            raise ConfigError(
                f"--{flag}={path}: cannot be read ({error.strerror or error})"
            ) from None
