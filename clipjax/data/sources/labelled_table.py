"""An evaluation set as a CSV, TSV or JSON-lines file that names image files.

`evals.suites.set_data` opens these. Rows are those of `sources.table`; one that cannot be read is
an error here.

Columns: the image's path, relative to the file's folder or absolute (`table.IMAGES`); a class key
(`label` or `class`) or a caption (`fields.TEXTS`); and any columns of groups, such as `region`. A
row is a record: `same_image` takes several captions of one image together.
"""

import hashlib
import os
import re
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources.fields import TEXTS, texts_of
from clipjax.data.sources.table import IMAGES, read_image, rows_of

LABELS = ("label", "class")


class LabelledTable:
    """A record is {"image", "key"} with "label", or "text" (a list of captions).

    Args:
      path: of the file, local.

    Raises:
      DataError: no rows, no such columns, or rows without values.
    """

    has_targets = False

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.name = os.path.basename(self.path)
        self._folder = os.path.dirname(os.path.abspath(self.path))
        rows = rows_of(self.path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        image, label, text = (_one_of(names, columns) for names in (IMAGES, LABELS, TEXTS))
        if not image or not (label or text):
            raise DataError(
                f"{self.path}: needs a column with the image's path ({', '.join(IMAGES)}) and one"
                f" with its class ({', '.join(LABELS)}) or caption ({', '.join(TEXTS)}); has:"
                f" {', '.join(columns) or 'no rows'}"
            )
        for number, row in enumerate(rows):
            has_image = row.get(image) and isinstance(row[image], str)
            if not has_image or (label and row.get(label) in (None, "")):
                or_label = f" or no {label}" if label else ""
                raise DataError(f"{self.path}: row {number} has no {image}{or_label}")
        self.kind = "classification" if label else "retrieval"
        self._captions = [] if label else _captions([row.get(text) for row in rows], self.path)
        self._images = [row[image] for row in rows]
        self._labels = _class_keys([row[label] for row in rows], path=self.path) if label else []
        self.group_names = tuple(name for name in columns if name not in (image, label, text))
        self._groups = [tuple(str(row.get(name)) for name in self.group_names) for row in rows]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record; ValueError or OSError if its image cannot be read."""
        found: dict[str, Any] = {
            "image": read_image(self.image_file(index)),
            "key": self.key(index),
        }
        if self.kind == "retrieval":
            return {**found, "text": self.caption(index)}
        return {**found, "label": self.label(index)}

    def image_file(self, index: int) -> str:
        """The path of a record's image."""
        return os.path.normpath(os.path.join(self._folder, self._images[index]))

    def key(self, index: int) -> str:
        """The image's path as it stands in the file."""
        return self._images[index]

    @property
    def labels(self) -> tuple[str, ...]:
        """All class keys, sorted; AttributeError without."""
        if not self._labels:
            raise AttributeError("labels")
        return tuple(sorted(set(self._labels)))

    def label(self, index: int) -> str:
        """The class key of a record."""
        return self._labels[index]

    @property
    def has_groups(self) -> bool:
        """Whether there are columns of groups."""
        return bool(self.group_names)

    def groups(self, index: int) -> tuple[str, ...]:
        """What stands in the columns of groups."""
        return self._groups[index]

    def caption(self, index: int) -> list[str]:
        """The captions of a record."""
        return self._captions[index]

    @property
    def fingerprint(self) -> str:
        """Of all rows; images are not read."""
        texts = sorted(zip(self._images, self._captions, strict=False))
        content = repr((self._images, self._labels, self._groups, texts))
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _captions(values: list[Any], path: str) -> list[list[str]]:
    """The captions of each row; an image without any is told where it is measured on."""
    found = []
    for row, value in enumerate(values):
        try:
            texts = texts_of(value)
        except BadRecord as error:
            raise DataError(f"{path}: row {row}: {error.message}; repair it") from None
        found.append([texts] if isinstance(texts, str) else texts)
    return found


def _class_keys(values: list[Any], *, path: str) -> list[str]:
    """Labels as texts; whole numbers that pandas has written as 0.0, 1.0 lose their point."""
    for number, value in enumerate(values):
        if not isinstance(value, str | int | float) or value != value:
            raise DataError(f"{path}: row {number} has the class {value!r}, no text and no number")
    keys = [str(value).strip() for value in values]
    if all(re.fullmatch(r"-?\d+(\.0)?", key) for key in keys):
        return [key.removesuffix(".0") for key in keys]
    return keys


def _one_of(names: tuple[str, ...], columns: list[str]) -> str:
    return next((name for name in names if name in columns), "")
