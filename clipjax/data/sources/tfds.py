"""Prepared TensorFlow Datasets as a source, without TensorFlow.

Records are read by index (`tfds_files`); images stay encoded (`SkipDecoding`), so the same decoder
runs as for every other source. Text is a caption, a list of captions or, failing both, a class
name. In the registry of `clipjax.data.sources` as "tfds".
"""

import bisect
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import ConfigError, DataError
from clipjax.common.registry import check_name, closest
from clipjax.data.source import BadRecord, Extent, Source
from clipjax.data.sources import tfds_files
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tfds_files import Path, PathLike

# Feature names that mean a caption, most specific first. Other text features (file names, ids,
# questions) are used only where `text_key` names them.
CAPTION_NAMES = ("captions", "caption", "texts", "text", "title", "description")
LABEL_NAMES = ("label", "fine_label", "class")

# VTAB's labels (google-research/task_adaptation): upper bounds are exclusive.
KITTI_BOUNDS = (-100.0, 8.0, 20.0, 999.0)  # metres; the last class is "no vehicle"
KITTI_VEHICLES = 3  # types below this: car, van, truck
NO_VEHICLE = 1000.0
CLEVR_BOUNDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0)


def kitti_distance(record: Mapping[str, Any]) -> str:
    """How far the nearest vehicle is, "0" (left or right) … "3" (none)."""
    types = np.asarray(value_at(record, ("objects", "type")))
    places = np.asarray(value_at(record, ("objects", "location"))).reshape(-1, 3)
    depths = np.append(places[types < KITTI_VEHICLES, 2], NO_VEHICLE)
    return str(_last_below(KITTI_BOUNDS, depths.min()))


def clevr_count(record: Mapping[str, Any]) -> str:
    """The number of objects, "3" … "10"."""
    return str(len(value_at(record, ("objects", "size"))))


def clevr_distance(record: Mapping[str, Any]) -> str:
    """How near the nearest object is to the camera, "0" … "5"."""
    places = np.asarray(value_at(record, ("objects", "pixel_coords"))).reshape(-1, 3)
    depths = places[:, 2]
    return str(_last_below(CLEVR_BOUNDS, depths.min()))


def _last_below(bounds: tuple[float, ...], value: float) -> int:
    return max(k for k, bound in enumerate(bounds) if bound < value)


Recipe = Callable[[Mapping[str, Any]], str]
RECIPES: dict[str, tuple[Recipe, tuple[str, ...]]] = {  # with all the keys there are
    "kitti_distance": (kitti_distance, tuple(map(str, range(4)))),
    "clevr_count": (clevr_count, tuple(map(str, range(3, 11)))),
    "clevr_distance": (clevr_distance, tuple(map(str, range(6)))),
}


class TfdsSource(Source):
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
        builder, is_prepared = tfds_files.find_builder(name, data_dir=data_dir)
        info = builder.info
        self.name = info.name
        features = dict(leaves(info.features))
        self._image = choose_image(features, key=image_key, name=self.name)
        self._text_paths = {
            key: choose_text(features, key=key, name=self.name) for key in text_key.split(",")
        }
        first = next(iter(self._text_paths.values()))
        self._class_names = getattr(features[first], "names", None)
        self._shards, self._records = tfds_files.open_split(
            builder,
            is_prepared=is_prepared,
            name=name or self.name,
            split=split,
            data_dir=data_dir,
            features=features,
            shard_files=shard_files,
        )
        self._ends = list(itertools.accumulate(taken for _, _, taken in self._shards))
        self._data_path = builder.data_path
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
        pair = {"image": value_at(record, self._image), "text": text, "key": self.key(index)}
        return {**pair, "label": text} if self._class_names else pair

    def caption(self, index: int) -> Any:
        """The text of one record, or its texts by field."""
        return self._texts(self._read(index))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """All classes, those without records too; None where the text is no class."""
        if not self._class_names:
            return None
        return tuple(name.replace("_", " ") for name in self._class_names)

    def label(self, index: int) -> str | None:
        """The class of one record, which is its text; None where the text is no class."""
        return self.caption(index) if self._class_names else None

    @property
    def extents(self) -> list[Extent]:
        """The records of each file; of mocked data, whose files are not known, as usual."""
        return [
            (os.path.join(self._data_path, file), skipped, skipped + taken)
            for file, skipped, taken in self._shards
        ] or super().extents

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
        texts = {key: self._text_at(record, path) for key, path in self._text_paths.items()}
        return texts if len(texts) > 1 else next(iter(texts.values()))

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


def open_split(*, path: str = "", files: ShardFiles | None = None, **settings: Any) -> TfdsSource:
    """The source from settings of `config.records`, whose `path` is TFDS's `data_dir`."""
    return TfdsSource(**settings, data_dir=path or None, shard_files=files)


class TfdsLabelled(Source):
    """A split for evaluation: {"image", "key"}, with "label" where an image has one class.

    `TfdsSource` is for training and gives a class as a caption. Here a class keeps the key that the
    data set itself uses ("american_bulldog", "n01440764"), may be computed from the objects in the
    picture, and there may be several to an image.

    Args:
      name, split, data_dir: as for `TfdsSource`.
      image: the image feature.
      label: a class feature, or one that lists classes: then images have `targets`.
      also: a second list of classes. Those that stand only in it are ignored for the image (VOC's
        "labels", whose difficult objects `label` leaves out).
      recipe: of RECIPES, in place of `label`.

    Raises:
      ConfigError, DataError: as `TfdsSource`; the features are not as named.
    """

    labels: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *,
        split: str,
        data_dir: PathLike | None = None,
        image: str = "image",
        label: str = "label",
        also: str = "",
        recipe: str = "",
    ):
        import tensorflow_datasets as library

        if recipe:
            check_name(recipe, names=RECIPES, kind="recipe of labels")
        self._arguments = {
            **{"name": name, "split": split, "data_dir": data_dir, "image": image},
            **{"label": label, "also": also, "recipe": recipe},
        }
        builder, is_prepared = tfds_files.find_builder(name, data_dir=data_dir)
        info = builder.info
        self.name = info.name
        features = dict(leaves(info.features))
        self._image: Path = (image,)
        if not isinstance(features.get(self._image), library.features.Image):
            raise DataError(f"data set {self.name}: has no image feature {image!r}")
        self._shards, self._records = tfds_files.open_split(
            builder,
            is_prepared=is_prepared,
            name=name,
            split=split,
            data_dir=data_dir,
            features=features,
        )
        self._recipe: Recipe | None = None
        if recipe:
            self._recipe, self.labels = RECIPES[recipe]
        else:
            self.labels = self._class_keys(info.features, label)
        one_class = recipe or isinstance(info.features[label], library.features.ClassLabel)
        self._kind = "classification" if one_class else "multilabel"
        identity = (info.full_name, split, self._shards, len(self._records), self._arguments)
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    def _class_keys(self, features: Any, label: str) -> tuple[str, ...]:
        import tensorflow_datasets as library

        feature = dict(features.items()).get(label)
        feature = getattr(feature, "feature", feature)  # what a sequence is one of
        if not isinstance(feature, library.features.ClassLabel) or not feature.num_classes:
            known = ", ".join(features)
            raise DataError(f"data set {self.name}: {label!r} is no class feature; has: {known}")
        return tuple(feature.names)

    @property
    def kind(self) -> str:
        return self._kind

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record; ValueError if it is damaged."""
        record = self._read(index)
        found = {"image": value_at(record, self._image), "key": self.key(index)}
        return found if self.kind == "multilabel" else {**found, "label": self._label(record)}

    def key(self, index: int) -> str:
        """The record's place in its split."""
        return f"{self._arguments['split']}/{index}"

    def label(self, index: int) -> str | None:
        """The class key of a record, where it has one class."""
        return None if self.kind == "multilabel" else self._label(self._read(index))

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [C] twice: the classes in the image, and the classes to ignore."""
        record = self._read(index)
        positive, listed = np.zeros((2, len(self.labels)), bool)
        positive[np.asarray(record[self._arguments["label"]], int)] = True
        if self._arguments["also"]:
            listed[np.asarray(record[self._arguments["also"]], int)] = True
        return positive, listed & ~positive

    def _label(self, record: Mapping[str, Any]) -> str:
        if self._recipe:
            return self._recipe(record)
        return self.labels[int(record[self._arguments["label"]])]

    def _read(self, index: int) -> Mapping[str, Any]:
        try:
            return self._records[index]
        except RuntimeError as error:  # array_record: failed checksum, failed read
            raise ValueError(f"{self.key(index)}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        TfdsLabelled.__init__(self, **state)


def leaves(features: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, feature) of every leaf; for a sequence, what it is a sequence of."""
    import tensorflow_datasets as tfds

    for name, feature in features.items():
        path = (*prefix, name)
        if isinstance(feature, (tfds.features.Sequence, tfds.features.Dataset)):
            if isinstance(feature.feature, tfds.features.ClassLabel):
                continue  # several classes in one picture make no caption
            feature = feature.feature
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from leaves(feature, path)
        else:
            yield path, feature


def choose_image(features: Mapping[Path, Any], *, key: str, name: str) -> Path:
    """The path of the image feature that `key` names, or of the only one, or of "image"."""
    import tensorflow_datasets as tfds

    candidates = [path for path, kind in features.items() if isinstance(kind, tfds.features.Image)]
    return choose(candidates, features, preferred=("image",), key=key, name=name, kind="image")


def choose_text(features: Mapping[Path, Any], *, key: str, name: str) -> Path:
    """The path of the text or class label that `key` names, else a caption, else a class label."""
    import tensorflow_datasets as tfds

    texts = [path for path, kind in features.items() if isinstance(kind, tfds.features.Text)]
    labels = [path for path, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    captions = [path for path in texts if set(path) & set(CAPTION_NAMES)]
    candidates = texts + labels if key else captions or labels
    preferred = CAPTION_NAMES + LABEL_NAMES
    return choose(candidates, features, preferred=preferred, key=key, name=name, kind="text")


def choose(
    candidates: Sequence[Path],
    features: Mapping[Path, Any],
    *,
    preferred: Sequence[str],
    key: str,
    name: str,
    kind: str,
) -> Path:
    """One of the candidates: the one `key` names, the most preferred, or the only one.

    Raises:
      ConfigError: `key` names none of them, or several are equally good.
      DataError: there is none.
    """
    names = {"/".join(path): path for path in candidates}
    seen = ", ".join(f"{'/'.join(path)} ({type(f).__name__})" for path, f in features.items())
    if key:
        matches = [path for full, path in names.items() if key in (full, path[0])]
        if len(matches) == 1 or key in names:
            return names.get(key, matches[0])
        raise ConfigError(
            f"config.data.{kind}_key: {key!r} is not one {kind} feature of {name}"
            f"{closest(key, names)}; features seen: {seen}"
        )
    if not candidates:
        raise DataError(f"data set {name} has no {kind} feature; features seen: {seen}")
    for wanted in preferred:
        for path in candidates:
            if wanted in path:
                return path
    if len(candidates) > 1:
        raise ConfigError(
            f"config.data.{kind}_key: {name} has several {kind} features; set one of"
            f" {', '.join(names)}"
        )
    return candidates[0]


def value_at(record: Mapping[str, Any], path: Path) -> Any:
    """The value at a path; below a sequence, the list of values."""
    value: Any = record
    for part in path:
        value = value[part] if isinstance(value, Mapping) else [item[part] for item in value]
    return value


def as_text(value: str | bytes) -> str:
    """Text of a feature; bytes that are no UTF-8 become surrogates, which `captions` drops."""
    return (
        value.decode("utf-8", errors="surrogateescape") if isinstance(value, bytes) else str(value)
    )
