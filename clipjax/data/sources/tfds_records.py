"""Records of a TFDS split prepared as TFRecord, by index and without TensorFlow.

TFDS itself gives random access to array_record only. Used by `sources.tfds`.
"""

import bisect
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import tfrecord, tfrecord_reader
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar_reader import OpenTar


class TfrecordRecords:
    """A split's records, decoded as TFDS's own data sources do.

    Args:
      shards: (path, records skipped, records taken) of each file.
      features: the data set's features.
      decoders: as for `tfds.builder.as_data_source`.

    Raises:
      DataError: a file is damaged, or holds fewer records than the data set's metadata say.
    """

    def __init__(
        self,
        shards: Sequence[tuple[str, int, int]],
        *,
        features: Any,
        decoders: Mapping[str, Any],
    ):
        self._shards = list(shards)
        self._features = features
        self._decoders = dict(decoders)
        self._ends = list(itertools.accumulate(taken for _, _, taken in shards))
        self._open = functools.lru_cache(128)(self._open_shard)
        for path, skipped, taken in self._shards:
            found = len(self._open(path)[1])
            if found < skipped + taken:
                raise DataError(
                    f"TFRecord file {path}: holds {found:,} records where the data set's metadata"
                    f" say {skipped + taken:,} or more: incomplete copy"
                )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One record; BadRecord if it is damaged."""
        shard = bisect.bisect_right(self._ends, index)
        path, skipped, taken = self._shards[shard]
        row = skipped + index - (self._ends[shard] - taken)
        file, table = self._open(path)
        data = tfrecord_reader.payload(file, int(table.offsets[row]), int(table.sizes[row]))
        try:
            return self._features.deserialize_example_np(data, decoders=self._decoders)
        except Exception as error:  # the protocol buffer library's own
            raise BadRecord("damaged record", f"{type(error).__name__}: {error}") from error

    def _open_shard(self, path: str) -> tuple[OpenTar, tfrecord.RecordTable]:
        files = ShardFiles()
        return files.opened(path, opener=OpenTar), tfrecord.load_table(path, files=files)
