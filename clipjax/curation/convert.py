"""Any source → array_record files with smaller JPEGs: `python -m clipjax.dataset convert`.

The result is a prepared TFDS data set: train on it with `data.source="tfds"` and `data.path` its
folder. Each shard holds a fixed range of the source's records and is written whole or not at all,
so the work can be stopped at any time and goes on where it was.
"""

import collections
import functools
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from clipjax.common import files
from clipjax.common.exits import ConfigError, DataError
from clipjax.curation import workers
from clipjax.data import captions, images
from clipjax.data.source import BadRecord, Source
from clipjax.data.sources import tf_example

SETTINGS = "convert.json"
DATA_SET = "converted"  # its TFDS name
ONE_FIELD = "captions"  # feature of the texts where the source has them in one field


def convert(
    source: Source,
    *,
    folder: str,
    side: int,
    quality: int,
    shard_records: int,
    num_workers: int,
    show: bool = True,
) -> dict[str, Any]:
    """Write what is still missing of `folder`, then its TFDS metadata.

    Args:
      source: the records; unusable ones are left out and counted.
      folder: where to, local or remote.
      side: longest that an image's shorter side stays, in pixels.
      quality: of the JPEGs made, 1 to 95; small JPEGs are kept as they are.
      shard_records: the source's records in each shard.
      num_workers: processes; 0 works here.
      show: whether there is a progress bar.

    Returns:
      {"written": records, "left out": {reason: records}}.

    Raises:
      ConfigError: `folder` holds a conversion of other records or with other settings.
      DataError: no record is usable.
    """
    fields = fields_of(source)
    settings = {
        "fingerprint": source.fingerprint,
        "side": side,
        "quality": quality,
        "shard_records": shard_records,
        "fields": fields,
    }
    _claim(folder, settings=settings)
    spans = workers.spans(len(source), size=shard_records)
    missing = [n for n in range(len(spans)) if not _counts(folder, n).exists()]
    write = functools.partial(
        write_shard,
        source=source,
        folder=folder,
        shards=len(spans),
        shard_records=shard_records,
        side=side,
        quality=quality,
    )
    for _ in workers.results(
        write,
        missing,
        num_workers=num_workers,
        unit="record",
        sizes=[len(spans[n]) for n in missing],
        show=show,
    ):
        pass
    written, left_out = [], collections.Counter()
    size = 0
    for number in range(len(spans)):
        counted = json.loads(_counts(folder, number).read_text())
        written.append(counted["written"])
        left_out.update(counted["left out"])
        size += counted["bytes"]
    if not sum(written):
        raise DataError(f"data set {source.name}: no record could be converted: {dict(left_out)}")
    write_metadata(folder, fields=fields, lengths=written, size=size)
    return {"written": sum(written), "left out": dict(left_out)}


def fields_of(source: Source, *, tried: int = 100) -> list[str]:
    """Names of the text features: the source's fields, or ONE_FIELD."""
    for index in range(min(tried, len(source))):
        try:
            text = source.caption(index)
        except (ValueError, OSError):
            continue
        return list(text) if isinstance(text, Mapping) else [ONE_FIELD]
    raise DataError(f"data set {source.name}: none of the first {tried} records can be read")


def write_shard(
    number: int,
    *,
    source: Source,
    folder: str,
    shards: int,
    shard_records: int,
    side: int,
    quality: int,
) -> None:
    """Write shard `number` and beside it what is in it; a pure function of the source's records."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    left_out: collections.Counter[str] = collections.Counter()
    written = size = 0
    path = epath.Path(folder) / f"{DATA_SET}-train.array_record-{number:05d}-of-{shards:05d}"
    first = number * shard_records
    with files.as_local(path) as local:
        writer = array_record_module.ArrayRecordWriter(local, "group_size:1")
        for index in range(first, min(first + shard_records, len(source))):
            try:
                example = converted(source.read(index), side=side, quality=quality)
            except BadRecord as error:
                left_out[error.reason] += 1
                continue
            writer.write(example)
            written += 1
            size += len(example)
        writer.close()
    files.write_json(
        _counts(folder, number), {"written": written, "left out": left_out, "bytes": size}
    )


def converted(record: dict[str, Any], *, side: int, quality: int) -> bytes:
    """A record as a serialised tf.train.Example; raises where training would not take it."""
    if not captions.usable(record["text"]):
        raise captions.BadCaption("empty caption")
    image = images.shrink(record["image"], side=side, quality=quality)
    text = record["text"]
    by_field = text if isinstance(text, Mapping) else {ONE_FIELD: text}
    features = {name: [t.encode() for t in captions.usable(ts)] for name, ts in by_field.items()}
    key = record["key"].encode("utf-8", "replace")
    return tf_example.encode({"image": [image], "key": [key], **features})


def write_metadata(folder: str, *, fields: list[str], lengths: list[int], size: int) -> None:
    """Write the TFDS metadata for array_record files already in `folder`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=DATA_SET,
        split="train",
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=lengths, num_bytes=size, filename_template=template
    )
    features = tfds.features
    texts = {field: features.Sequence(features.Text()) for field in fields}
    with files.errors(folder, setting="--output"):
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features.FeaturesDict(
                {
                    "image": features.Image(encoding_format="jpeg"),
                    "key": features.Text(),
                    **texts,
                }
            ),
            split_infos=[split],
            version="1.0.0",
            filename_template=template,
            check_data=False,
        )


def _counts(folder: str, number: int) -> epath.Path:
    return epath.Path(folder) / f".shard-{number:05d}.json"


def _claim(folder: str, *, settings: dict[str, Any]) -> None:
    """Note in the folder what it is for, or compare with what stands there."""
    files.make_folder(folder, setting="--output")
    note = epath.Path(folder) / SETTINGS
    if not note.exists():
        if epath.Path(folder).exists() and any(epath.Path(folder).iterdir()):  # no folders there
            raise ConfigError(f"--output={folder}: is not empty and no conversion; name another")
        files.write_json(note, settings)
        return
    before = json.loads(note.read_text())
    different = [key for key, value in settings.items() if before.get(key) != value]
    if different:
        raise ConfigError(
            f"--output={folder}: holds a conversion with another {', '.join(different)}; name"
            " another folder, or remove it"
        )
