"""Tar shards as img2dataset, LAION and DataComp write them, as a source with random access.

In the registry of `clipjax.data.sources` as "tar". A sample is the members that share a name up
to the first dot (`tar_index`); its image is the .jpg, .jpeg, .png or .webp and its text the .txt,
or a field of the .json. Reading one takes two reads at known offsets: nothing is extracted or
unpickled, and names inside a tar are never used as paths.
"""

import collections
import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.counts import counted
from clipjax.common.exits import DataError
from clipjax.common.registry import closest
from clipjax.data.source import BadRecord
from clipjax.data.sources import shard_format, sharded, tar_index
from clipjax.data.sources.fields import texts_of
from clipjax.data.sources.shard_files import OpenFile, ShardFiles
from clipjax.data.sources.shard_format import Format
from clipjax.data.sources.sharded import ShardedSource
from clipjax.data.sources.tar_index import BLOCK

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE = 64 << 20  # bytes of an image member
MAX_TEXT = 1 << 20  # bytes of a .txt or .json member


@dataclasses.dataclass(frozen=True)
class Choice:
    """Extensions of the image (the first that a sample has), and where the texts are."""

    images: tuple[str, ...]
    texts: dict[str, tuple[str, str]]  # name → extension, field of the .json or "" for all of it

    @classmethod
    def of(cls, *, image_key: str, text_key: str) -> "Choice":
        """The choice that the settings `image_key` and `text_key` make; see `TarFormat.of`."""
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
        """Extensions of the members that hold texts, without repeats."""
        return tuple(dict.fromkeys(extension for extension, _ in self.texts.values()))

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(shard_format.Table):
    """Where the usable samples of a shard have image and text: 22 bytes each, and the key."""

    image: np.ndarray  # uint32 [2, n]: offsets in blocks of 512 bytes, sizes in bytes
    texts: dict[str, np.ndarray]  # the same for each extension with text; block 0 is no member
    key_start: np.ndarray  # uint32 [n]
    key_size: np.ndarray  # uint16 [n]
    keys: bytes
    left_out: dict[str, int]  # samples that are not usable, by reason

    @property
    def skipped(self) -> dict[str, int]:
        return self.left_out

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
        left_out={reason: count for reason, count in skipped.items() if count},
        seen=tuple(index.extension_names[kind] for kind, count in frequent if count),
    )


def extents(index: tar_index.Index, extensions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where each of N samples has its member with one of `extensions`, and whether it has two.

    (block, size) as uint32 [2, N], with block 0 for none, and bool [N]. Of several extensions the
    one named first is taken.
    """
    samples = len(index.key_ends)
    blocks = np.zeros((2, samples), np.uint32)
    twice = np.zeros(samples, bool)
    names = index.extension_names
    for extension in reversed(extensions):
        if extension in names:
            chosen = np.flatnonzero(index.members[1] == names.index(extension))
            rows = index.members[0, chosen]
            blocks[:, rows] = index.members[2:, chosen]
            twice |= np.bincount(rows, minlength=samples) > 1
    return blocks, twice


@dataclasses.dataclass(frozen=True)
class TarFormat(Format):
    """Tar as a `shard_format.Format`; `names` is a Choice.

    Members are known from the index, so there are no nulls to find: one inside of a .json is an
    empty caption.
    """

    kind: ClassVar[str] = "tar shard"
    ending: ClassVar[str] = ".tar"

    @classmethod
    def of(cls, *, image_key: str = "", text_key: str = "") -> "TarFormat":
        """The format with the members that settings name.

        Args:
          image_key: extension of the image member; "" is jpg, jpeg, png or webp, in this order.
          text_key: "" or "txt" is the .txt member, ".cap" another member, and any other word a
            field of the .json member; a list there gives several captions. Several of these joined
            by "," give texts by field.
        """
        return cls(Choice.of(image_key=image_key, text_key=text_key))

    def load(self, path: str, *, files: ShardFiles) -> Table:
        return load_table(path, choice=self.names, files=files)

    def image(self, file: OpenFile, table: Table, row: int, /) -> bytes:
        return member(file, table.image[:, row], limit=MAX_IMAGE)

    def text(self, file: OpenFile, table: Table, row: int, /) -> Any:
        read: dict[str, bytes] = {}
        texts: dict[str, Any] = {}
        for name, (extension, field) in self.names.texts.items():
            extent = table.texts[extension][:, row]
            if not extent[0]:
                texts[name] = ""  # other fields have text, or the sample would not be here
                continue
            if extension not in read:
                read[extension] = member(file, extent, limit=MAX_TEXT)
            if field:
                texts[name] = field_texts(parse(read[extension]), field)
            else:
                texts[name] = read[extension].decode("utf-8", errors="surrogateescape")
        return texts if len(texts) > 1 else next(iter(texts.values()))

    def missing_fields(self, source: ShardedSource) -> str:
        """Mostly the first sample has every field; those of the first ones are looked through."""
        wanted = {field for extension, field in self.names.texts.values() if field}
        seen: dict[str, None] = {}
        looked_at, problem = min(len(source), sharded.LOOKED_AT), ""
        for index in range(looked_at):
            if not wanted:
                break
            file, table, row = source.locate(index)
            try:
                fields = parse(member(file, table.texts["json"][:, row], limit=MAX_TEXT))
            except (ValueError, OSError) as error:
                problem = problem or f"; the first: {error}"
                continue
            wanted -= set(fields)
            seen.update(dict.fromkeys(fields))
        if not wanted:
            return ""
        field = sorted(wanted)[0]
        return (
            f"config.data.text_key: 0 of the first {looked_at:,} samples of {source.name} have"
            f" {field!r} in their .json{closest(field, seen)}; fields seen:"
            f" {', '.join(map(ascii, list(seen)[:20])) or 'none'}"
            f"{'' if seen else problem}"
        )


open_tars = functools.partial(sharded.open_shards, TarFormat)


def member(file: OpenFile, extent: np.ndarray, *, limit: int) -> bytes:
    """The content of a member, (block, size); BadRecord if too large or not all there."""
    block, size = map(int, extent)
    if size > limit:
        raise BadRecord(f"a member of {size:,} bytes is above the limit of {limit:,}")
    data = file.read(size, offset=block * BLOCK)
    if len(data) < size:
        raise BadRecord("the shard ends within this record")
    return data


def parse(data: bytes) -> dict[str, Any]:
    """The fields of a .json member, or BadRecord."""
    try:
        fields = json.loads(data.decode("utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise BadRecord("the .json cannot be parsed", str(error)) from None
    if not isinstance(fields, dict):
        raise BadRecord("the .json holds no fields")
    return fields


def field_texts(fields: dict[str, Any], name: str) -> str | list[str]:
    """The text or texts in a field; BadRecord if it holds anything else."""
    try:
        return texts_of(fields.get(name))
    except BadRecord as error:
        raise BadRecord(error.reason, f"field {name} of the .json: {error.detail}") from None
