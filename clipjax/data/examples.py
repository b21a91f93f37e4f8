"""The training stream, one example per global position.

`TrainExamples(...)[position]` is a pure function of the source, the seed and the position; the
loader (`clipjax.data.loader`) only decides which process computes which positions. A record that
cannot be used is replaced, at the same position, by another one, so that batches keep their shape
and every host agrees on what came next.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data import captions, images
from clipjax.data.order import GlobalOrder, Order
from clipjax.data.same_image import content_id
from clipjax.data.source import BadRecord, Source

ATTEMPTS = 16  # substitutes tried for one position before the data are called unusable


class Tokenizer(Protocol):
    """What the loader needs of a tokenizer; see `clipjax.data.tokenizers`."""

    context_length: int

    def encode(self, texts: Sequence[str], /) -> tuple[np.ndarray, np.ndarray]: ...


class TrainExamples:
    """Random access to training examples by global position, without an end.

    Args:
      source: the records.
      tokenizer: turns the chosen caption into ids.
      image_size: side of the square images, in pixels.
      image_resize: how images become squares, see `images.decode_train`.
      seed: decides order, captions and crops, together with the position and nothing else.
      order: which record stands where; all of them shuffled if not given.
      text_weights: of the fields, where texts come by field, see `captions.choose`; of a mixture
        by source.
      content_ids: also give what tells equal images and equal captions, for losses that ask.

    Raises:
      DataError: the source is empty; later, ATTEMPTS records in a row could not be used.
    """

    def __init__(
        self,
        source: Source,
        *,
        tokenizer: Tokenizer,
        image_size: int,
        seed: int,
        image_resize: str = "crop",
        order: Order | None = None,
        text_weights: Sequence[float] | Mapping[str, Sequence[float]] = (),
        content_ids: bool = False,
    ):
        if len(source) == 0:
            raise DataError(f"data: source {source.name} has 0 records; check path and split")
        self.source = source
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.image_resize = image_resize
        self.seed = seed
        self.order = order or GlobalOrder(len(source), seed=seed)
        self.text_weights = text_weights
        self.content_ids = content_ids

    def prepare(self, position: int) -> None:
        """Let the source fetch what will be read from this position on, if it has to fetch."""
        self.source.prepare(self.order.upcoming(position))

    def progress(self, position: int) -> dict[str, float]:
        """How far the stream has come after so many examples: "data/epochs", or these and
        "examples" of each source of a mixture."""
        return {f"data/{name}": value for name, value in self.order.progress(position).items()}

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One example.

        Returns:
          {"image": uint8 [S, S, 3], "text": int32 [T], "record_id": uint32} for the device, with
          `content_ids` also "image_id" and "text_id", uint32 (see `content_id`), and for counters:
          "position", "key", "source", "truncated" (the caption did not fit), "cleaned"
          (characters were removed from it), "bad" (why the record that belongs here was replaced,
          `BadRecord.reason`, else ""), "bad_detail" (what else is known of that) and "bad_key" (its
          key).
        """
        bad: BadRecord | None = None
        bad_key = ""
        for attempt in range(ATTEMPTS):
            rng = generator(self.seed, position=position, attempt=attempt)
            if attempt == 0:
                index = self.order(position)
            else:
                index = self.order.substitute(position, rng=rng)
            key = ""
            try:
                record = self.source.read(index)
                key = record["key"]
                name = record.get("source", self.source.name)
                weights = self.text_weights
                caption, cleaned = captions.choose(
                    record["text"],
                    rng=rng,
                    weights=weights[name] if isinstance(weights, Mapping) else weights,
                )
                image = images.decode_train(
                    record["image"], size=self.image_size, rng=rng, resize=self.image_resize
                )
            except BadRecord as error:
                if bad is None:
                    bad, bad_key = error, key or self.source.key(index)
                continue
            ids, truncated = self.tokenizer.encode([caption])
            content = {}
            if self.content_ids:
                content = {
                    "image_id": content_id(record["image"]),
                    "text_id": content_id(ids[0].tobytes()),
                }
            return content | {
                "image": image,
                "text": ids[0],
                "record_id": record_id(name, key=key),
                "position": position,
                "key": key,
                "source": name,
                "truncated": bool(truncated[0]),
                "cleaned": cleaned,
                "bad": bad.reason if bad else "",
                "bad_detail": bad.detail if bad else "",
                "bad_key": bad_key,
            }
        assert bad is not None
        raise DataError(
            f"data: {ATTEMPTS} records of source {self.source.name} tried for position {position},"
            f" none usable; the first was {bad_key} ({bad.message})"
        )


def shard_of(key: str) -> str:
    """The part of a record's key that names its shard; "" where there are none."""
    return key.rsplit("/", 1)[0] if "/" in key else ""


def generator(seed: int, *, position: int, attempt: int = 0) -> np.random.Generator:
    """The random numbers of one position: counter-based, so no other position can shift them."""
    return np.random.Generator(
        np.random.Philox(key=[seed % 2**64, position], counter=[0, 0, 0, attempt])
    )


def record_id(source: str, *, key: str) -> np.uint32:
    """A 32-bit hash that names a record in logs."""
    name = f"{source}\n{key}".encode("utf-8", "backslashreplace")  # keys may be names of files
    digest = hashlib.blake2b(name, digest_size=4).digest()
    return np.uint32(int.from_bytes(digest, "little"))
