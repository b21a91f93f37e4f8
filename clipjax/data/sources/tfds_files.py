"""Prepared TensorFlow Datasets as files: found, checked, and read by index without TensorFlow.

TFDS gives random access to array_record only, and only to local files: remote ones and TFRecord
files are read by `ShardRecords`. Used by `sources.tfds`.
"""

import bisect
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.common.registry import closest
from clipjax.data import sources
from clipjax.data.source import BadRecord
from clipjax.data.sources import remote, tfrecord
from clipjax.data.sources.shard_files import OpenFile, ShardFiles

PathLike = str | os.PathLike[str]
Path = tuple[str, ...]  # a feature's place in a nested record; names may contain "/" themselves
Shard = tuple[str, int, int]  # file, records skipped, records taken
DEFAULT_FOLDER = "~/tensorflow_datasets"  # TFDS's own default, for messages


def find_builder(name: str, *, data_dir: PathLike | None) -> tuple[Any, bool]:
    """The TFDS builder, and whether its files were found.

    Files come first: they need no code of the data set, so sets whose code needs TensorFlow can
    be read once they are prepared.

    Raises:
      ConfigError: neither files nor a builder of that name.
      DataError: not prepared, and the builder needs a package that is missing.
    """
    import tensorflow_datasets as tfds
    from etils import epath
    from tensorflow_datasets.core import read_only_builder, registered

    place = files.resolve(data_dir or "", setting="config.data.path")
    folder = epath.Path(place) if place else None
    if folder and (folder / "features.json").exists():
        builder = read_only_builder.builder_from_directory(folder)
        _check_named(name, info=builder.info, folder=folder)
        return builder, True
    if not name:
        other = sources.by_ending(os.fspath(data_dir or ""))
        hint = f"; source {other} reads it: set config.data.source={other}" if other else ""
        raise ConfigError(
            f"config.data.name: not set, and {folder or 'config.data.path'} holds no"
            f" features.json{hint}"
        )
    try:
        return read_only_builder.builder_from_files(name, data_dir=folder), True
    except registered.DatasetNotFoundError:
        pass
    except ValueError as error:  # several folders fit, or the name cannot be parsed
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"config.data.name: {name!r} names no one TFDS data set ({reason})"
        ) from None
    where = folder or DEFAULT_FOLDER
    try:
        return tfds.builder(name, data_dir=folder), False
    except registered.DatasetNotFoundError:
        near = closest(name, registered.list_imported_builders())
        raise ConfigError(
            f"config.data.name: TFDS has no data set {name!r}{near}, and none of that name is"
            f" prepared in {where}"
        ) from None
    except ImportError as error:
        reason = str(error.__cause__ or error)
        raise DataError(
            f"config.data.name: {name} is not prepared in {where} and its builder needs what is"
            f" missing here ({reason}); in an environment that has it, run:"
            f" {prepare_command(name, data_dir=folder)}"
        ) from None


def _check_named(name: str, *, info: Any, folder: Any) -> None:
    """Raise ConfigError where a folder of one data set does not hold the one that is named."""
    base, _, version = name.partition(":")
    if (name and base.split("/")[0] != info.name) or version not in ("", str(info.version)):
        raise ConfigError(
            f"config.data.name: {name!r} is not what {folder} holds, {info.full_name}; leave it"
            " out, or set config.data.path to the folder that holds the data sets"
        )


def prepare_command(name: str, *, data_dir: PathLike | None) -> str:
    """The shell command that prepares a data set so that it can be read here."""
    argument = "" if not data_dir else f", data_dir='{os.fspath(data_dir)}'"
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'{argument},"
        " file_format='array_record').download_and_prepare()\""
    )


def open_split(
    builder: Any,
    *,
    is_prepared: bool,
    name: str,
    split: str,
    data_dir: PathLike | None,
    features: Mapping[Path, Any],
    shard_files: ShardFiles | None = None,
) -> tuple[list[Shard], Any]:
    """The shards of a split and random access to its records, images still encoded.

    Raises ConfigError and DataError as `use_format`, `list_shards` and `open_records`.
    """
    form = use_format(builder, name=name, data_dir=data_dir) if is_prepared else ""
    shards = list_shards(builder, split=split, prepared=is_prepared)
    records = open_records(
        builder,
        name=name,
        split=split,
        data_dir=data_dir,
        features=features,
        form=form,
        shard_files=shard_files,
    )
    return shards, records


def use_format(builder: Any, *, name: str, data_dir: PathLike | None) -> str:
    """Make a prepared builder read array_record or else TFRecord; DataError if it has neither.

    TFDS would also read Parquet by index, but its Parquet files lose records.
    """
    formats = sorted(form.value for form in builder.info.available_file_formats())
    usable = [form for form in ("array_record", "tfrecord") if form in formats]
    if not usable:
        other = f"{data_dir or DEFAULT_FOLDER}_array_record"
        raise DataError(
            f"data set {name} in {builder.data_path} is prepared as {', '.join(formats)}, which"
            f" cannot be read by index; set config.data.path to {other} and run:"
            f" {prepare_command(name, data_dir=other)}"
        )
    if builder.info.file_format.value != usable[0]:
        builder.info.set_file_format(usable[0], override=True, override_if_initialized=True)
    return usable[0]


def list_shards(builder: Any, *, split: str, prepared: bool) -> list[Shard]:
    """The split's shards in order; empty for a builder that knows no splits (not prepared).

    Raises:
      ConfigError: no such split.
      DataError: the split has no records, or a shard's file is missing.
    """
    from etils import epath

    info = builder.info
    if not info.splits:
        return []
    try:
        instructions = info.splits[split].file_instructions
    except ValueError:
        raise ConfigError(
            f"config.data.split: {info.name} has no split {split!r}{closest(split, info.splits)};"
            f" splits: {', '.join(info.splits)}"
        ) from None
    if not instructions:
        raise DataError(f"config.data.split: {info.name} has 0 records in split {split!r}")
    if prepared:
        present = {path.name for path in epath.Path(builder.data_path).iterdir()}
        missing = [i.filename for i in instructions if os.path.basename(i.filename) not in present]
        if missing:
            raise DataError(
                f"data set {info.name}: {len(missing)} of {len(instructions)} files of split"
                f" {split!r} are missing, first {missing[0]}; copy or prepare it again"
            )
    return [(os.path.basename(i.filename), i.skip, i.take) for i in instructions]


def open_records(
    builder: Any,
    *,
    name: str,
    split: str,
    data_dir: PathLike | None,
    features: Mapping[Path, Any],
    form: str,
    shard_files: ShardFiles | None = None,
) -> Any:
    """Random access to the split, images still encoded; DataError if not prepared."""
    import tensorflow_datasets as tfds

    decoders: dict[str, Any] = {}
    for path, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            level = decoders
            for part in path[:-1]:
                level = level.setdefault(part, {})
            level[path[-1]] = tfds.decode.SkipDecoding()
    if form == "tfrecord" or (form and remote.is_remote(os.fspath(builder.data_path))):
        return ShardRecords(
            [
                (os.fspath(i.filename), i.skip, i.take)
                for i in builder.info.splits[split].file_instructions
            ],
            form=form,
            features=builder.info.features,
            decoders=decoders,
            files=shard_files or ShardFiles(),
        )
    try:
        return builder.as_data_source(split=split, decoders=decoders)
    except (NotImplementedError, AssertionError, KeyError, ValueError, OSError) as error:
        raise DataError(
            f"data set {name} is not prepared in {data_dir or DEFAULT_FOLDER}; run:"
            f" {prepare_command(name, data_dir=data_dir)}"
        ) from error


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


class TfrecordPayloads:
    """The payloads of a TFRecord file."""

    def __init__(self, path: str, files: ShardFiles) -> None:
        self._file = files.opened(path, opener=OpenFile)
        self._table = tfrecord.load_table(path, files=files)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> bytes:
        offset, size = int(self._table.offsets[row]), int(self._table.sizes[row])
        return tfrecord.payload(self._file, offset, size)


class ArrayRecordPayloads:
    """The payloads of an array_record file."""

    def __init__(self, path: str, files: ShardFiles) -> None:
        from array_record.python import array_record_module  # pyright: ignore

        self._reader = files.opened(path, opener=array_record_module.ArrayRecordReader)

    def __len__(self) -> int:
        return self._reader.num_records()

    def __getitem__(self, row: int) -> bytes:
        return self._reader.read([row])[0]


OPENERS = {"tfrecord": TfrecordPayloads, "array_record": ArrayRecordPayloads}
