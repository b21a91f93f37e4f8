"""Prepared TensorFlow Datasets as a source, without TensorFlow.

Reads local array_record files by index through TFDS's data sources, remote ones and TFRecord files
through `tfds_records`; images stay encoded (`SkipDecoding`), so the same decoder runs as for every
other source. Text is a caption, a list of captions or, failing both, a class name. In the registry
of `clipjax.data.sources` as "tfds".
"""

import bisect
import hashlib
import itertools
import os
from collections.abc import Mapping
from typing import Any

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.common.registry import closest
from clipjax.data import sources
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import remote
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tfds_features import Path, choose_image, choose_text, leaves, value_at
from clipjax.data.sources.tfds_records import ShardRecords

PathLike = str | os.PathLike[str]
Shard = tuple[str, int, int]  # file, records skipped, records taken
DEFAULT_FOLDER = "~/tensorflow_datasets"  # TFDS's own default, for messages


class TfdsSource:
    """Random access to the records of one split.

    Args:
      name: as for `tfds.builder`: "coco_captions", "my_set/config:1.0.0". Not needed where
        `data_dir` is itself a prepared version's folder (it holds features.json).
      split: with slices and sums: "train", "train[10%:]", "train+validation".
      data_dir: TFDS's folder of data sets; None means TFDS's own default.
      image_key, text_key: feature names, nested ones written "captions/text"; found by type and
        name where not given. Several text features are joined by ",".
      shard_files: where copies of a remote data set's shards are kept; None is this host's cache.

    Records carry "label" too where the text is a class name. Keys name the shard and the place in
    it, so a record has the same key in every slice of its split.

    Raises:
      ConfigError: unknown data set, split or feature.
      DataError: not prepared, prepared as Parquet, shards missing, no text, no records.
    """

    def __init__(
        self,
        name: str = "",
        *,
        split: str = "train",
        data_dir: PathLike | None = None,
        image_key: str = "",
        text_key: str = "",
        shard_files: ShardFiles | None = None,
    ):
        self._arguments = {
            "name": name,
            "split": split,
            "data_dir": data_dir,
            "image_key": image_key,
            "text_key": text_key,
            "shard_files": shard_files,
        }
        builder, prepared = find_builder(name, data_dir=data_dir)
        info = builder.info
        self.name = info.name
        features = dict(leaves(info.features))
        self._image = choose_image(features, key=image_key, name=self.name)
        self._text_paths = {
            key: choose_text(features, key=key, name=self.name) for key in text_key.split(",")
        }
        first = next(iter(self._text_paths.values()))
        self._class_names = getattr(features[first], "names", None)
        form = use_format(builder, name=name or self.name, data_dir=data_dir) if prepared else ""
        self._shards = list_shards(builder, split=split, prepared=prepared)
        self._ends = list(itertools.accumulate(taken for _, _, taken in self._shards))
        self.extents = [  # see `shared_records`
            (os.path.join(builder.data_path, file), skipped, skipped + taken)
            for file, skipped, taken in self._shards
        ]
        self._records = open_records(
            builder,
            name=name,
            split=split,
            data_dir=data_dir,
            features=features,
            form=form,
            shard_files=shard_files,
        )
        if len(self._records) == 0:
            raise DataError(f"config.data.split: {self.name} has 0 records in split {split!r}")
        if self._shards and len(self._records) != self._ends[-1]:
            raise DataError(
                f"data set {self.name} has {len(self._records)} records in split {split!r} where"
                f" its metadata say {self._ends[-1]}: incomplete copy or damaged format"
            )
        identity = (info.full_name, split, self._shards, len(self), self._image, first)
        identity += tuple(self._text_paths.values())[1:]
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image", "text", "key"} and perhaps "label"; BadRecord if it is damaged."""
        record = self._read(index)
        text = self._texts(record)
        found = {"image": value_at(record, self._image), "text": text, "key": self.key(index)}
        return {**found, "label": text} if self._class_names else found

    def caption(self, index: int) -> Any:
        """The text of one record, or its texts by field."""
        return self._texts(self._read(index))

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes, those without records too; AttributeError where the text is no class."""
        if not self._class_names:
            raise AttributeError("labels")
        return tuple(name.replace("_", " ") for name in self._class_names)

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        TfdsSource.__init__(self, **state)  # file handles do not travel: open them again

    def _read(self, index: int) -> Mapping[str, Any]:
        try:
            return self._records[index]
        except RuntimeError as error:  # array_record: failed checksum, failed read
            raise BadRecord("unreadable record", str(error), key=self.key(index)) from error

    def _texts(self, record: Mapping[str, Any]) -> Any:
        found = {key: self._text_at(record, path) for key, path in self._text_paths.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def _text_at(self, record: Mapping[str, Any], path: Path) -> str | list[str]:
        value = value_at(record, path)
        if self._class_names:
            return self._class_names[int(value)].replace("_", " ")
        return as_text(value) if isinstance(value, (str, bytes)) else [as_text(v) for v in value]

    def key(self, index: int) -> str:
        """The shard and the place in it of one record, without reading it."""
        shard = bisect.bisect_right(self._ends, index)
        if shard == len(self._shards):  # mocked data: no shards are known
            return f"{self._arguments['split']}/{index}"
        file, skipped, taken = self._shards[shard]
        return f"{file}/{skipped + index - (self._ends[shard] - taken)}"


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
    place = "" if not data_dir else f", data_dir='{os.fspath(data_dir)}'"
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}'{place},"
        " file_format='array_record').download_and_prepare()\""
    )


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


def as_text(value: str | bytes) -> str:
    """Text of a feature; bytes that are no UTF-8 become surrogates, which `captions` drops."""
    return (
        value.decode("utf-8", errors="surrogateescape") if isinstance(value, bytes) else str(value)
    )
