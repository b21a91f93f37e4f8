"""Which members of a tar shard's samples are the image and the text. Used by `sources.tar`."""

import collections
import dataclasses

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources import tar_index

IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Extensions of the image (the first that a sample has) and of the text, and its field."""

    images: tuple[str, ...]
    text: str
    field: str  # of the .json; "" where the text member is all text

    @classmethod
    def of(cls, *, image_key: str, text_key: str) -> "Choice":
        """From the settings `image_key` and `text_key`; see `sources.tar.TarSource`."""
        images = (image_key.removeprefix(".").lower(),) if image_key else IMAGES
        if text_key in ("", "txt"):
            return cls(images, "txt", "")
        if text_key.startswith("."):
            return cls(images, text_key[1:].lower(), "")
        return cls(images, "json", text_key)

    def no_pairs(self, name: str, *, samples: int, seen: list[str]) -> DataError:
        """The error where no sample has both members; `seen` are the extensions there are."""
        return DataError(
            f"data set {name}: 0 of the first {samples:,} samples have both an image"
            f" ({', '.join(self.images)}) and text ({self.text}); seen:"
            f" {', '.join(seen[:20]) or 'none'}; set config.data.image_key to one of these and"
            " config.data.text_key to .ONE of these or to a field of the .json"
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """Where the n usable samples of a shard have image and text: 22 bytes each, and the key."""

    identity: tuple[int, int]  # the shard's bytes, and its mtime in ns
    digest: int  # of the whole index
    image: np.ndarray  # uint32 [2, n]: offsets in blocks of 512 bytes, sizes in bytes
    text: np.ndarray  # uint32 [2, n]
    key_start: np.ndarray  # uint32 [n]
    key_size: np.ndarray  # uint16 [n]
    keys: bytes
    samples: int  # usable or not
    skipped: dict[str, int]
    seen: tuple[str, ...]  # extensions, the most frequent first

    def __len__(self) -> int:
        return len(self.key_size)

    def key(self, row: int) -> str:
        """A sample's name in the shard, made fit for a log line."""
        start = int(self.key_start[row])
        key = self.keys[start : start + int(self.key_size[row])].decode("utf-8", "backslashreplace")
        return key if key.isprintable() else ascii(key)[1:-1]


def load_table(path: str, *, choice: Choice, cache_dir: str = "") -> Table:
    """The table of one shard; raises as `tar_index.load` does."""
    index = tar_index.load(path, cache_dir=cache_dir)
    image, image_twice = extents(index, choice.images)
    text, text_twice = extents(index, (choice.text,))
    ends = index.key_ends
    starts = np.concatenate([np.zeros(1, np.uint32), ends[:-1]]) if len(ends) else ends
    # Block 0 is a header, so 0 means that there is no such member. Which of two members of one
    # name belongs to the sample cannot be known, and a wrong pair would go unnoticed.
    twice = image_twice | text_twice
    no_image = ~twice & (image[0] == 0)
    no_text = ~twice & ~no_image & (text[0] == 0)
    use = ~(twice | no_image | no_text)
    skipped = {
        "samples without image": int(no_image.sum()),
        "samples without text": int(no_text.sum()),
        "samples with a member twice": int(twice.sum()),
        "members that are no regular files": index.ignored[0],
        "members without key and extension": index.ignored[1],
    }
    frequent = collections.Counter(
        dict(enumerate(np.bincount(index.members[1]).tolist()))
    ).most_common()
    return Table(
        identity=index.identity,
        digest=index.digest,
        image=image[:, use],
        text=text[:, use],
        key_start=starts[use],
        key_size=(ends - starts)[use].astype(np.uint16),
        keys=index.keys.tobytes(),
        samples=len(ends),
        skipped={reason: count for reason, count in skipped.items() if count},
        seen=tuple(index.extension_names[kind] for kind, count in frequent if count),
    )


def extents(index: tar_index.Index, extensions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where each of N samples has its member with one of `extensions`, and whether it has two.

    (block, size) as uint32 [2, N], with block 0 for none, and bool [N]. Of several extensions the
    one named first is taken.
    """
    samples = len(index.key_ends)
    found = np.zeros((2, samples), np.uint32)
    twice = np.zeros(samples, bool)
    names = index.extension_names
    for extension in reversed(extensions):
        if extension in names:
            chosen = np.flatnonzero(index.members[1] == names.index(extension))
            rows = index.members[0, chosen]
            found[:, rows] = index.members[2:, chosen]
            twice |= np.bincount(rows, minlength=samples) > 1
    return found, twice
