"""A prepared TFDS split for evaluation: images with the label keys that the data set itself uses.

`evals.suites.set_data` opens these. `TfdsSource` is for training and gives a class as a caption;
here a class keeps its key ("american_bulldog", "n01440764"), may be computed from the objects in
the picture, and there may be several to an image.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.common.registry import check_name
from clipjax.data.sources import tfds
from clipjax.data.sources.tfds_features import Path, leaves, value_at

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


class TfdsLabelled:
    """Random access to a split; a record is {"image", "key"}, with "label" where it has one.

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

    def __init__(
        self,
        name: str,
        *,
        split: str,
        data_dir: tfds.PathLike | None = None,
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
        builder, prepared = tfds.find_builder(name, data_dir=data_dir)
        info = builder.info
        self.name = info.name
        features = dict(leaves(info.features))
        self._image: Path = (image,)
        if not isinstance(features.get(self._image), library.features.Image):
            raise DataError(f"data set {self.name}: has no image feature {image!r}")
        form = tfds.use_format(builder, name=name, data_dir=data_dir) if prepared else ""
        self._shards = tfds.list_shards(builder, split=split, prepared=prepared)
        self._records = tfds.open_records(
            builder, name=name, split=split, data_dir=data_dir, features=features, form=form
        )
        self._recipe: Recipe | None = None
        if recipe:
            self._recipe, self.labels = RECIPES[recipe]
        else:
            self.labels = self._class_keys(info.features, label)
        self.has_targets = not recipe and not isinstance(
            info.features[label], library.features.ClassLabel
        )
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

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record; ValueError if it is damaged."""
        record = self._read(index)
        found = {"image": value_at(record, self._image), "key": self.key(index)}
        return found if self.has_targets else {**found, "label": self._label(record)}

    def key(self, index: int) -> str:
        """The record's place in its split."""
        return f"{self._arguments['split']}/{index}"

    def label(self, index: int) -> str:
        """The class key of a record."""
        return self._label(self._read(index))

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
