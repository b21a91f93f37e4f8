"""Records of a TFDS split, by index and without TensorFlow, where TFDS itself cannot read them.

TFDS gives random access to array_record only, and only to local files. Used by `sources.tfds`.
"""

import bisect
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import remote, tfrecord, tfrecord_reader
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar_reader import OpenTar


class ShardRecords:
    """A split's records, decoded as TFDS's own data sources do.

    Args:
      shards: (path, records skipped, records taken) of each file.
      form: "tfrecord" or "array_record".
      features: the data set's features.
      decoders: as for `tfds.builder.as_data_source`.
      files: where copies of remote shards go; local ones are opened now, remote ones when read.

    Raises:
      DataError: a file is damaged, or holds fewer records than the data set's metadata say.
    """

    def __init__(
        self,
        shards: Sequence[tuple[str, int, int]],
        *,
        form: str,
        features: Any,
        decoders: Mapping[str, Any],
        files: ShardFiles,
    ):
        self._shards = list(shards)
        self._opener = OPENERS[form]
        self._features = features
        self._decoders = dict(decoders)
        self._files = files
        self._ends = list(itertools.accumulate(taken for _, _, taken in shards))
        self._open = functools.lru_cache(128)(self._open_shard)
        for number, (path, _, _) in enumerate(self._shards):
            if not remote.is_remote(path):
                self._open(number)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One record; BadRecord if it is damaged."""
        shard = bisect.bisect_right(self._ends, index)
        _, skipped, taken = self._shards[shard]
        data = self._open(shard)[skipped + index - (self._ends[shard] - taken)]
        try:
            return self._features.deserialize_example_np(data, decoders=self._decoders)
        except Exception as error:  # the protocol buffer library's own
            raise BadRecord("damaged record", f"{type(error).__name__}: {error}") from error

    def _open_shard(self, number: int) -> Any:
        path, skipped, taken = self._shards[number]
        opened = self._opener(path, self._files)
        if len(opened) < skipped + taken:
            raise DataError(
                f"{path}: holds {len(opened):,} records where the data set's metadata say"
                f" {skipped + taken:,} or more: incomplete copy"
            )
        return opened


class _Tfrecord:
    """The payloads of a TFRecord file."""

    def __init__(self, path: str, files: ShardFiles) -> None:
        self._file = files.opened(path, opener=OpenTar)
        self._table = tfrecord.load_table(path, files=files)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> bytes:
        offset, size = int(self._table.offsets[row]), int(self._table.sizes[row])
        return tfrecord_reader.payload(self._file, offset, size)


class _ArrayRecord:
    """The payloads of an array_record file."""

    def __init__(self, path: str, files: ShardFiles) -> None:
        from array_record.python import array_record_module  # pyright: ignore

        self._reader = files.opened(path, opener=array_record_module.ArrayRecordReader)

    def __len__(self) -> int:
        return self._reader.num_records()

    def __getitem__(self, row: int) -> bytes:
        return self._reader.read([row])[0]


OPENERS = {"tfrecord": _Tfrecord, "array_record": _ArrayRecord}
