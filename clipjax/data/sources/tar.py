"""Tar shards as img2dataset, LAION and DataComp write them, as a source with random access.

In the registry of `clipjax.data.sources` as "tar". A sample is the members that share a name up
to the first dot (`tar_index`); its image is the .jpg, .jpeg, .png or .webp and its text the .txt,
or a field of the .json. Reading one takes two reads at known offsets: nothing is extracted or
unpickled, and names inside a tar are never used as paths.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import DataError
from clipjax.common.registry import closest
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import sharded
from clipjax.data.sources.fields import texts_of
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.sharded import ShardedSource
from clipjax.data.sources.tar_reader import BLOCK, OpenTar
from clipjax.data.sources.tar_table import Choice, Table, load_table

MAX_IMAGE = 64 << 20  # bytes of an image member
MAX_TEXT = 1 << 20  # bytes of a .txt or .json member


def open_tars(
    path: str | os.PathLike[str],
    *,
    image_key: str = "",
    text_key: str = "",
    files: ShardFiles | None = None,
    survey: Mapping[str, Any] | None = None,
) -> ShardedSource:
    """The image-text pairs of tar shards; arguments and errors as `ShardedSource`, and:

    Args:
      image_key: extension of the image member; "" is jpg, jpeg, png or webp, in this order.
      text_key: "" or "txt" is the .txt member, ".cap" another member, and any other word a field
        of the .json member; a list there gives several captions. Several of these joined by ","
        give texts by field.
    """
    form = TarFormat(Choice.of(image_key=image_key, text_key=text_key))
    return ShardedSource(path, form=form, files=files or ShardFiles(), survey=survey)


@dataclasses.dataclass(frozen=True)
class TarFormat:
    """Tar as a `sharded.Format`."""

    kind: ClassVar[str] = "tar shard"
    ending: ClassVar[str] = ".tar"

    members: Choice

    def choice(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self.members)

    def load(self, path: str, *, files: ShardFiles) -> Table:
        return load_table(path, choice=self.members, files=files)

    def null_finder(self, table: Table, /) -> None:
        """Members are known from the index; a null inside of a .json is an empty caption."""

    def open(self, path: str) -> OpenTar:
        return OpenTar(path)

    def image(self, file: OpenTar, table: Table, row: int, /) -> bytes:
        return member(file, table.image[:, row], limit=MAX_IMAGE)

    def text(self, file: OpenTar, table: Table, row: int, /) -> Any:
        read: dict[str, bytes] = {}
        found: dict[str, Any] = {}
        for name, (extension, field) in self.members.texts.items():
            extent = table.texts[extension][:, row]
            if not extent[0]:
                found[name] = ""  # other fields have text, or the sample would not be here
                continue
            if extension not in read:
                read[extension] = member(file, extent, limit=MAX_TEXT)
            if field:
                found[name] = field_texts(parse(read[extension]), field)
            else:
                found[name] = read[extension].decode("utf-8", errors="surrogateescape")
        return found if len(found) > 1 else next(iter(found.values()))

    def fields(self, file: OpenTar, table: Table, row: int, /) -> Sequence[str]:
        return table.seen

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        return self.members.no_pairs(name, samples=samples, seen=list(seen))

    def missing_fields(self, source: ShardedSource) -> str:
        """Mostly the first sample has every field; those of the first ones are looked through."""
        wanted = {field for extension, field in self.members.texts.values() if field}
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


def member(file: OpenTar, extent: np.ndarray, *, limit: int) -> bytes:
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
