"""TFRecord files of tf.train.Examples as a source: img2dataset's, or any with named features.

In the registry of `clipjax.data.sources` as "tfrecord". Read by index without TensorFlow; an
index of where records lie is made once a file. TFDS data sets prepared as TFRecord are better
read as source "tfds", which knows their features.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import index_file, tf_example, tfrecord_reader
from clipjax.data.sources.fields import FieldChoice
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.shard_format import Nulls
from clipjax.data.sources.sharded import ShardedSource
from clipjax.data.sources.tar_reader import OpenTar

FORMAT = 1  # raise it when what is stored changes
COLUMNS = ("offsets", "sizes", "numbers")


def open_tfrecords(
    path: str | os.PathLike[str],
    *,
    image_key: str = "",
    text_key: str = "",
    files: ShardFiles | None = None,
    survey: Mapping[str, Any] | None = None,
) -> ShardedSource:
    """The image-text pairs of TFRecord files; arguments and errors as `ShardedSource`, and:

    Args:
      image_key: the feature that holds the encoded image; "" is one of `fields.IMAGES`.
      text_key: the feature of the text, or several joined by ","; "" is one of `fields.TEXTS`.
    """
    form = TfrecordFormat(FieldChoice.of(image_key=image_key, text_key=text_key))
    return ShardedSource(path, form=form, files=files or ShardFiles(), survey=survey)


@dataclasses.dataclass(frozen=True)
class RecordTable:
    """Where the records of a file lie."""

    identity: tuple[int, int]
    digest: int
    offsets: np.ndarray  # uint64 [n]
    sizes: np.ndarray  # uint32 [n]
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seen: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def samples(self) -> int:
        return len(self)

    def key(self, row: int) -> str:
        """The record's number in its file: its own key is inside of it."""
        return str(row)


@dataclasses.dataclass(frozen=True)
class TfrecordFormat:
    """TFRecord as a `sharded.Format`."""

    kind: ClassVar[str] = "TFRecord file"
    ending: ClassVar[str] = ".tfrecord"

    names: FieldChoice

    def choice(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self.names)

    def load(self, path: str, *, files: ShardFiles) -> RecordTable:
        return load_table(path, files=files)

    def null_finder(self, table: RecordTable, /) -> Callable[[OpenTar], Nulls]:
        """Any record may lack a feature, or have it without a value."""
        return lambda file: self.names.nulls(filled(file, table, row) for row in range(len(table)))

    def open(self, path: str) -> OpenTar:
        return OpenTar(path)

    def image(self, file: OpenTar, table: RecordTable, row: int, /) -> bytes:
        found = read(file, table, row)
        values = found.get(self.names.image_in(found), [])
        if not values:
            raise BadRecord("no image feature", f"features: {', '.join(found) or 'none'}")
        return values[0]

    def text(self, file: OpenTar, table: RecordTable, row: int, /) -> Any:
        found = {name: values for name, values in read(file, table, row).items() if values}
        return self.names.texts_of(
            {name: values[0] if len(values) == 1 else values for name, values in found.items()}
        )

    def fields(self, file: OpenTar, table: RecordTable, row: int, /) -> Sequence[str]:
        return list(read(file, table, row))

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        return self.names.no_pairs(name, samples=samples, seen=seen)

    def missing_fields(self, source: ShardedSource) -> str:
        return ""  # the nulls have told


def load_table(path: str, *, files: ShardFiles) -> RecordTable:
    """Where the records of a file lie; DataError if it is damaged, OSError if it cannot be read."""

    def build() -> index_file.Columns:
        file = files.opened(path, opener=OpenTar)
        starts, sizes = tfrecord_reader.offsets(file)
        columns = {"offsets": starts, "sizes": sizes}
        counted = index_file.numbers(columns, version=FORMAT, identity=file.identity)
        return {**columns, "numbers": counted}

    columns = files.load_index(path, names=COLUMNS, version=FORMAT, build=build)
    _, size, mtime, digest = columns["numbers"].tolist()
    return RecordTable((size, mtime), digest, columns["offsets"], columns["sizes"])


def read(file: OpenTar, table: RecordTable, row: int) -> dict[str, list[bytes]]:
    """The features of one record; BadRecord if it is damaged."""
    data = tfrecord_reader.payload(file, int(table.offsets[row]), int(table.sizes[row]))
    return tf_example.decode(data)


def filled(file: OpenTar, table: RecordTable, row: int) -> list[str] | None:
    """Names of the features of one record that hold bytes, read without these; None if damaged."""
    offset, size = int(table.offsets[row]), int(table.sizes[row])
    try:
        return tf_example.filled(
            lambda at, count: file.read(count, offset=at), offset=offset, size=size
        )
    except (BadRecord, OSError):
        return None
