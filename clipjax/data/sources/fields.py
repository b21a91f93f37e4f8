"""Which field of a record is the image and which the text, for formats with named fields.

Used by `sources.tfrecord`, `sources.parquet` and `sources.table`; `texts_of` by `sources.tar` too.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common.counts import counted
from clipjax.common.exits import DataError
from clipjax.common.registry import closest
from clipjax.data.source import BadRecord

# As img2dataset, TFDS, Hugging Face datasets and the classic TFRecord converters name them.
IMAGES = ("jpg", "jpeg", "png", "webp", "image", "image/encoded", "image_raw", "image_bytes")
TEXTS = (
    *("txt", "caption", "captions", "text", "texts", "title", "alt_text", "image/caption"),
    *("captions/text", "caption/text", "sentence", "description"),
)

ADDRESS = re.compile(r"(image|img)?_?urls?", re.IGNORECASE)  # a name of where images can be had
MOST_SEEN = 30  # names of fields that an error lists
NO_COLUMNS = "rows of files without image or text column"  # why rows are left out


@dataclasses.dataclass(frozen=True)
class Nulls:
    """What the n rows of a table lack."""

    no_image: np.ndarray  # bool [n]
    no_text: np.ndarray  # bool [n]
    seen: Sequence[str] = ()  # names of fields, where the table does not know them


@dataclasses.dataclass(frozen=True)
class FieldChoice:
    """Names that may be the image, first one first, and names that are the texts.

    Args:
      images: candidates; the first that a record has is taken.
      texts: where `given`, all of these are texts by field; else candidates as for images.
      given: the user named them.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    given: bool

    @classmethod
    def of(
        cls, *, image_key: str, text_key: str, images: tuple[str, ...] = IMAGES
    ) -> "FieldChoice":
        """The choice by settings `image_key` and `text_key`; "," separates several texts."""
        return cls(
            (image_key,) if image_key else images,
            tuple(text_key.split(",")) if text_key else TEXTS,
            bool(text_key),
        )

    def image_in(self, names: Collection[str]) -> str:
        """The name of the image among a record's names, or ""."""
        return next((name for name in self.images if name in names), "")

    def texts_in(self, names: Collection[str]) -> list[str]:
        """The names of the texts among a record's names."""
        present = [name for name in self.texts if name in names]
        return present if self.given else present[:1]

    def texts_of(self, values: Mapping[str, Any]) -> Any:
        """The text, list of texts, or of several `given` fields these by name, "" for null.

        Raises BadRecord if a field holds anything else.
        """
        names = self.texts if self.given else self.texts_in(values)
        texts = {name: texts_of(values.get(name)) for name in names}
        return texts if len(texts) > 1 else next(iter(texts.values()), "")

    def pair_in(self, names: Collection[str]) -> bool:
        """Whether a record with these names has an image and a text."""
        return bool(self.image_in(names) and self.texts_in(names))

    def nulls(self, rows: Iterable[Collection[str] | None]) -> Nulls:
        """What rows lack, from the names of those of their fields that hold something.

        None stands for a row that cannot be read.
        """
        no_image, no_text, seen = [], [], dict[str, None]()
        for names in rows:
            no_image.append(names is not None and not self.image_in(names))
            no_text.append(names is not None and not self.texts_in(names))
            if len(seen) < MOST_SEEN:
                seen.update(dict.fromkeys(names or ()))
        return Nulls(np.array(no_image, bool), np.array(no_text, bool), list(seen)[:MOST_SEEN])

    def no_pairs(self, what: str, *, samples: int, seen: Sequence[str]) -> DataError:
        """The error where no record has both; `seen` are the names there are."""
        hints = [] if not self.given else [closest(name, seen) for name in self.texts]
        addresses = [name for name in seen if ADDRESS.fullmatch(name) and not self.image_in(seen)]
        fetch = "; {} holds addresses: fetch the images first, as img2dataset does"
        return DataError(
            f"data set {what}: 0 of the first {counted(samples, 'record')} have both an image"
            f" ({', '.join(self.images)}) and text ({', '.join(self.texts)}){''.join(hints)}; keys"
            f" seen: {', '.join(seen[:MOST_SEEN]) or 'none'}; set config.data.image_key and"
            f" config.data.text_key{fetch.format(addresses[0]) if addresses else ''}"
        )


def texts_of(value: Any) -> str | list[str]:
    """The text or texts that a field holds; "" for null, and nulls in a list are left out.

    Bytes that are no UTF-8 become surrogates, which `captions` drops and counts. Raises BadRecord
    for anything but text, bytes and lists of these.
    """
    if isinstance(value, list):
        return [_text(one) for one in value if one is not None]
    return "" if value is None else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    shown = repr(value)
    remedy = ", write its text alone:" if isinstance(value, dict) else ""
    raise BadRecord(
        "caption is no text",
        f"{type(value).__name__}{remedy} {shown[:40]}{'…' if shown[40:] else ''}",
    )
