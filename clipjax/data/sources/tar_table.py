"""Which members of a tar shard's samples are the image and the text. Used by `sources.tar`."""

import collections
import dataclasses

import numpy as np

from clipjax.common.counts import counted
from clipjax.common.exits import DataError
from clipjax.data.sources import tar_index
from clipjax.data.sources.shard_files import ShardFiles

IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Extensions of the image (the first that a sample has), and where the texts are."""

    images: tuple[str, ...]
    texts: dict[str, tuple[str, str]]  # name → extension, field of the .json or "" for all of it

    @classmethod
    def of(cls, *, image_key: str, text_key: str) -> "Choice":
        """From the settings `image_key` and `text_key`; see `sources.tar.open_tars`."""
        images = (image_key.removeprefix(".").lower(),) if image_key else IMAGES
        texts = {}
        for name in (text_key or "txt").split(","):
            if name == "txt":
                texts[name] = ("txt", "")
            elif name.startswith("."):
                texts[name] = (name[1:].lower(), "")
            else:
                texts[name] = ("json", name)
        return cls(images, texts)

    @property
    def text_extensions(self) -> tuple[str, ...]:
        """Of the members that hold texts, without repeats."""
        return tuple(dict.fromkeys(extension for extension, _ in self.texts.values()))

    def no_pairs(self, name: str, *, samples: int, seen: list[str]) -> DataError:
        """The error where no sample has both members; `seen` are the extensions there are."""
        if not samples:
            return DataError(f"data set {name}: config.data.path names shards without any sample")
        packed = [one for one in seen if one.endswith((".gz", ".bz2", ".xz", ".zst"))]
        remedy = "set config.data.image_key to one of these and config.data.text_key to .ONE of"
        remedy += " these or to a field of the .json" if "json" in seen else " these"
        if packed:
            remedy = f"{', '.join(packed[:3])} is compressed; write it as it is"
        return DataError(
            f"data set {name}: 0 of the first {counted(samples, 'sample')} have both an image"
            f" ({', '.join(self.images)}) and text ({', '.join(self.text_extensions)}); seen:"
            f" {', '.join(seen[:20]) or 'none'}; {remedy}"
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """Where the n usable samples of a shard have image and text: 22 bytes each, and the key."""

    identity: tuple[int, int]  # the shard's bytes, and its mtime in ns
    digest: int  # of the whole index
    image: np.ndarray  # uint32 [2, n]: offsets in blocks of 512 bytes, sizes in bytes
    texts: dict[str, np.ndarray]  # the same for each extension with text; block 0 is no member
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


def load_table(path: str, *, choice: Choice, files: ShardFiles) -> Table:
    """The table of one shard; raises as `tar_index.load` does."""
    index = tar_index.load(path, files=files)
    image, twice = extents(index, choice.images)
    texts = {}
    for extension in choice.text_extensions:
        texts[extension], text_twice = extents(index, (extension,))
        twice |= text_twice
    ends = index.key_ends
    starts = np.concatenate([np.zeros(1, np.uint32), ends[:-1]]) if len(ends) else ends
    # Block 0 is a header, so 0 means that there is no such member. Which of two members of one
    # name belongs to the sample cannot be known, and a wrong pair would go unnoticed.
    any_text = np.logical_or.reduce([text[0] != 0 for text in texts.values()])
    no_image = ~twice & (image[0] == 0)
    no_text = ~twice & ~no_image & ~any_text
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
        texts={extension: text[:, use] for extension, text in texts.items()},
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
