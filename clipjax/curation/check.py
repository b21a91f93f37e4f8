"""Looking through a data set before training on it: `python -m clipjax.dataset check`.

`inspect` looks at some records and gives counts; counts add up, whoever made them.
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.curation import workers
from clipjax.data import captions, images
from clipjax.data.examples import BadRecord, Source, place, read, shard_of

CHUNK = 64  # records
WORST = 10  # shards, reasons and duplicates named
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclasses.dataclass
class Findings:
    """What some records are like."""

    seen: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    keys: dict[str, None] = dataclasses.field(default_factory=dict)  # names of fields
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # key, reason
    bad_by_shard: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sides: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # width, height
    image_bytes: list[int] = dataclasses.field(default_factory=list)
    captions_each: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    characters: list[int] = dataclasses.field(default_factory=list)
    cleaned: int = 0  # captions that lose characters
    images: dict[bytes, int] = dataclasses.field(default_factory=dict)  # hash → first index
    texts: dict[bytes, int] = dataclasses.field(default_factory=dict)
    same_images: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    same_texts: int = 0

    def add(self, other: "Findings") -> None:
        """Count the other's records too; they come after these."""
        self.seen += other.seen
        self.cleaned += other.cleaned
        self.keys.update(other.keys)
        for name in ("reasons", "bad_by_shard", "formats", "captions_each"):
            getattr(self, name).update(getattr(other, name))
        for name in ("sides", "image_bytes", "characters", "same_images"):
            getattr(self, name).extend(getattr(other, name))
        self.bad += other.bad[: WORST - len(self.bad)]
        self.same_texts += other.same_texts
        for digest, index in other.images.items():
            if self.images.setdefault(digest, index) != index:
                self.same_images.append((self.images[digest], index))
        for digest, index in other.texts.items():
            self.same_texts += self.texts.setdefault(digest, index) != index


def check(
    source: Source, *, limit: int, num_workers: int, show: bool = True
) -> tuple[Findings, Sequence[int]]:
    """Look at `limit` records, see `captions.spread`, all of them if 0.

    Returns:
      The findings, and the indices looked at.
    """
    indices = captions.spread(source, limit=limit) if limit else range(len(source))
    chunks = [indices[span.start : span.stop] for span in workers.spans(len(indices), size=CHUNK)]
    found = Findings()
    for part in workers.results(
        functools.partial(inspect, source=source),
        chunks,
        num_workers=num_workers,
        unit="record",
        sizes=[len(chunk) for chunk in chunks],
        show=show,
    ):
        found.add(part)
    return found, indices


def inspect(indices: Sequence[int], *, source: Source) -> Findings:
    """Findings on these records; a pure function of them."""
    found = Findings()
    for number, index in enumerate(indices):
        found.seen += 1
        try:
            record = read(source, index)
            fields = getattr(source, "fields", None)
            if fields is not None and number == 0:  # of one in CHUNK: they are much alike
                found.keys.update(dict.fromkeys(fields(index)))
            size, file_format = images.probe(record["image"])
            texts = captions.usable(record["text"])
            if not texts:
                raise captions.BadCaption("empty caption")
        except (BadRecord, captions.BadCaption, images.BadImage) as error:
            key = place(source, index)
            found.reasons[str(error)] += 1
            found.bad_by_shard[shard_of(key)] += 1
            found.bad.append((key, str(error)))
            continue
        found.formats[file_format] += 1
        found.sides.append(size)
        found.image_bytes.append(len(record["image"]))
        found.captions_each[len(texts)] += 1
        found.characters += [len(text) for text in texts]
        found.cleaned += sum(map(captions.is_cut_or_altered, captions.candidates(record["text"])))
        first = found.images.setdefault(digest_of(record["image"]), index)
        if first != index:
            found.same_images.append((first, index))
        for text in texts:
            found.same_texts += found.texts.setdefault(digest_of(text.encode()), index) != index
    return found


def digest_of(data: bytes) -> bytes:
    """64 bits that tell contents apart."""
    return hashlib.blake2b(data, digest_size=8).digest()


def summary(found: Findings, *, source: Any) -> dict[str, Any]:
    """The findings as a few numbers, JSON-ready."""
    sides = np.array(found.sides or [(0, 0)])
    return {
        "source": source.name,
        "records": len(source),
        "looked at": found.seen,
        "left out by the source": dict(getattr(source, "skipped", {})),
        "broken": sum(found.reasons.values()),
        "broken by reason": dict(found.reasons.most_common()),
        "broken by shard": dict(found.bad_by_shard.most_common(WORST)),
        "broken, first": found.bad[:WORST],
        "keys seen": list(found.keys),
        "formats": dict(found.formats.most_common()),
        "shorter side": quantiles(sides.min(axis=1)),
        "longer side": quantiles(sides.max(axis=1)),
        "bytes of an image": quantiles(found.image_bytes),
        "captions of a record": dict(sorted(found.captions_each.items())),
        "characters of a caption": quantiles(found.characters),
        "captions that lose characters": found.cleaned,
        "images seen before": len(found.same_images),
        "captions seen before": found.same_texts,
    }


def quantiles(values: Iterable[float]) -> dict[str, int]:
    """Least, 5 %, median, 95 % and most."""
    listed = np.array(list(values) or [0])
    names = ("least", "5 %", "median", "95 %", "most")
    return dict(zip(names, map(int, np.quantile(listed, QUANTILES)), strict=True))


def describe(summed: dict[str, Any]) -> str:
    """The summary as lines."""
    lines = []
    for name, value in summed.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}: {v:,}" for k, v in value.items()) or "none"
        elif name == "keys seen":
            value = ", ".join(map(ascii, value)) or "none"
        elif isinstance(value, list):
            value = "; ".join(f"{key} ({reason})" for key, reason in value) or "none"
        lines.append(f"{name:30} {value:,}" if isinstance(value, int) else f"{name:30} {value}")
    return "\n".join(lines)


def sheet(source: Any, indices: Sequence[int], *, count: int = 24) -> Any:
    """A picture of some usable records with their captions; None if there are none."""
    from clipjax.pictures import samples

    pixels, texts = [], []
    rng = np.random.default_rng(0)
    for index in indices[:: max(len(indices) // (4 * count), 1)]:
        if len(pixels) == count:
            break
        try:
            record = read(source, index)
            text, _ = captions.choose(record["text"], rng=rng)
            pixels.append(images.decode_eval(record["image"], size=160))
        except (BadRecord, captions.BadCaption, images.BadImage):
            continue
        texts.append(text)
    if not pixels:
        return None
    return samples.draw(
        pixels,
        captions=texts,
        tokens=[[] for _ in texts],
        title=f"{source.name}: {len(pixels)} of {len(source):,} records",
    )
