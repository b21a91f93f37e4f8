"""Looking through a data set before training on it: `python -m clipjax.dataset check`.

`inspect` looks at some records and gives counts; counts add up, whoever made them. A set takes
8 bytes of memory for each image, pair and caption, to find repeats, and about 2 for each record.
"""

import array
import collections
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.common.counts import counted
from clipjax.curation import workers
from clipjax.data import captions, images
from clipjax.data.examples import shard_of
from clipjax.data.same_image import digest
from clipjax.data.source import BadRecord, Source

CHUNK = 64  # records
WORST = 10  # shards and broken records named
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
QUOTED = re.compile(r'"[^"]*""(?:[^"]|"")*"')
PLAIN = {  # how names in check.json read on the screen
    "left out by the source": "lacking image or text",
    "captions that lose characters": "captions cut or cleaned",
}
COUNTED = (  # fields of Findings that are counters
    *("reasons", "bad_by_shard", "formats", "shorter", "longer", "image_bytes"),
    *("captions_each", "characters"),
)


def digests() -> "array.array[int]":
    """An empty array of 64-bit digests; a dict or a set would take ten times as much."""
    return array.array("Q")


@dataclasses.dataclass
class Findings:
    """What some records are like."""

    seen: int = 0
    cleaned: int = 0  # captions that lose characters
    quoted: int = 0  # captions in quotes with quotes doubled, as CSV has them and TSV does not
    keys: dict[str, None] = dataclasses.field(default_factory=dict)  # names of fields
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # key, reason
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad_by_shard: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    shorter: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    longer: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    image_bytes: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    captions_each: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    characters: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    images: "array.array[int]" = dataclasses.field(default_factory=digests)
    pairs: "array.array[int]" = dataclasses.field(default_factory=digests)  # image, all captions
    texts: "array.array[int]" = dataclasses.field(default_factory=digests)

    def add(self, other: "Findings") -> None:
        """Count the other's records too; they come after these."""
        self.seen += other.seen
        self.cleaned += other.cleaned
        self.quoted += other.quoted
        self.keys.update(other.keys)
        self.bad += other.bad[: WORST - len(self.bad)]
        for name in COUNTED:
            getattr(self, name).update(getattr(other, name))
        self.images.extend(other.images)
        self.pairs.extend(other.pairs)
        self.texts.extend(other.texts)


def check(
    source: Source, *, limit: int, num_workers: int, show: bool = True
) -> tuple[Findings, Sequence[int]]:
    """Look at `limit` records, see `Source.spread`, all of them if 0.

    Returns:
      The findings, and the indices looked at.
    """
    indices = source.spread(limit=limit) if limit else range(len(source))
    chunks = [indices[span.start : span.stop] for span in workers.spans(len(indices), size=CHUNK)]
    findings = Findings()
    for part in workers.results(
        functools.partial(inspect, source=source),
        chunks,
        num_workers=num_workers,
        unit="record",
        sizes=[len(chunk) for chunk in chunks],
        show=show,
    ):
        findings.add(part)
    return findings, indices


def inspect(indices: Sequence[int], *, source: Source) -> Findings:
    """Findings on these records; a pure function of them."""
    findings = Findings()
    for number, index in enumerate(indices):
        findings.seen += 1
        try:
            record = source.read(index)
            if number == 0:  # of one in CHUNK: they are much alike
                findings.keys.update(dict.fromkeys(source.fields(index)))
            texts = captions.usable(record["text"])
            if not texts:
                raise captions.BadCaption("empty caption")
            size, file_format = images.probe(record["image"])
        except BadRecord as error:
            key = source.key(index)
            findings.reasons[error.reason] += 1
            findings.bad_by_shard[shard_of(key) or source.name] += 1
            findings.bad.append((key, error.message))
            continue
        findings.formats[file_format] += 1
        findings.shorter[min(size)] += 1
        findings.longer[max(size)] += 1
        findings.image_bytes[three_digits(len(record["image"]))] += 1
        findings.captions_each[len(texts)] += 1
        findings.characters.update(map(len, texts))
        findings.cleaned += sum(
            map(captions.is_cut_or_altered, captions.candidates(record["text"]))
        )
        findings.quoted += sum(QUOTED.fullmatch(text) is not None for text in texts)
        findings.images.append(image := digest(record["image"]))
        findings.pairs.append(digest("\n".join([str(image), *texts]).encode()))
        findings.texts.extend({digest(text.encode()) for text in texts})
    return findings


def repeats(found: "array.array[int]") -> int:
    """How many of these digests are there before. Sorts them."""
    values = np.frombuffer(found, np.uint64)
    values.sort()  # in place: a copy might not fit beside it
    return int(np.count_nonzero(values[1:] == values[:-1]))


def three_digits(number: int) -> int:
    """A number to three digits, so that not every size of a file is one of its own."""
    return round(number, 3 - len(str(number)))


def summary(found: Findings, *, source: Source) -> dict[str, Any]:
    """The findings as a few numbers, JSON-ready; image bytes to three digits."""
    return {
        "source": source.name,
        **({"read": source.details} if source.details else {}),
        "records": len(source),
        "looked at": found.seen,
        "left out by the source": dict(source.skipped),
        "broken": sum(found.reasons.values()),
        "broken by reason": dict(found.reasons.most_common()),
        "broken by shard": dict(found.bad_by_shard.most_common(WORST)),
        "broken, first": found.bad[:WORST],
        "keys seen": list(found.keys),
        "formats": dict(found.formats.most_common()),
        "shorter side": quantiles(found.shorter),
        "longer side": quantiles(found.longer),
        "bytes of an image": quantiles(found.image_bytes),
        "captions of a record": dict(sorted(found.captions_each.items())),
        "characters of a caption": quantiles(found.characters),
        "captions that lose characters": found.cleaned,
        "captions quoted as in a CSV": found.quoted,
        "images seen before": repeats(found.images),
        "of these with other captions": repeats(found.images) - repeats(found.pairs),
        "captions seen before": repeats(found.texts),
    }


def quantiles(numbers: collections.Counter[int]) -> dict[str, int]:
    """Least, 5 %, median, 95 % and most of values counted; of the values nearest to them."""
    values = sorted(numbers) or [0]
    ends = np.cumsum([numbers[value] for value in values])
    ranks = np.round(np.multiply(QUANTILES, ends[-1] - 1))
    chosen = np.searchsorted(ends, ranks, side="right").clip(max=len(values) - 1)
    names = ("least", "5 %", "median", "95 %", "most")
    return {name: values[place] for name, place in zip(names, chosen, strict=True)}


def describe(summed: dict[str, Any]) -> str:
    """The summary as lines."""
    lines = []
    for name, value in summed.items():
        name = PLAIN.get(name, name)
        if name == PLAIN["left out by the source"]:
            counts = ", ".join(f"{reason}: {count:,}" for reason, count in value.items())
            value = f"{counts or 'none'} (left out by the source; never among the records)"
        elif isinstance(value, dict):
            value = ", ".join(f"{k}: {v:,}" for k, v in value.items()) or "none"
        elif name == "keys seen":
            value = ", ".join(map(ascii, value)) or "none"
        elif isinstance(value, list):
            value = "; ".join(f"{key} ({reason})" for key, reason in value) or "none"
        lines.append(f"{name:30} {value:,}" if isinstance(value, int) else f"{name:30} {value}")
    return "\n".join(lines)


def sheet(source: Source, indices: Sequence[int], *, count: int = 24) -> Any:
    """A picture of some usable records with their captions; None if there are none."""
    from clipjax.pictures.sheets import samples

    pixels, texts = [], []
    rng = np.random.default_rng(0)
    for index in indices[:: max(len(indices) // (4 * count), 1)]:
        if len(pixels) == count:
            break
        try:
            record = source.read(index)
            text, _ = captions.choose(record["text"], rng=rng)
            pixels.append(images.decode_eval(record["image"], size=160))
        except BadRecord:
            continue
        texts.append(text)
    if not pixels:
        return None
    return samples.draw(
        pixels,
        captions=texts,
        tokens=[[] for _ in texts],
        title=f"{source.name}: {len(pixels)} of {counted(len(source), 'record')}",
    )
