"""WinoGAViL as its owners publish it: a CSV of cues and candidates, and a folder of images.

    FOLDER/winogavil_dataset.csv      columns cue, candidates and associations, names as JSON lists
    FOLDER/winogavil_images/NAME.jpg

DataComp evaluates these files of huggingface.co/datasets/nlphuji/winogavil, and
`evals.suites.set_data` opens them. Columns of scores and annotators are not read.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import os

from clipjax.common.exits import DataError
from clipjax.data.source import Source
from clipjax.data.sources.table import read_image

IMAGES = "winogavil_images"
COLUMNS = ("cue", "candidates", "associations")


@dataclasses.dataclass(frozen=True)
class Cue:
    """A cue, its candidates as indices of records, and which of them are associated with it."""

    text: str
    candidates: tuple[int, ...]
    associated: tuple[bool, ...]


class Associations(Source):
    """Source of the candidate images, each once; a record is {"image", "key"}.

    Args:
      path: of the CSV, local.

    Attributes:
      cues: in the order of the file.

    Raises:
      DataError: other columns, no rows, a row that is damaged, or images that are not there.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.name = os.path.basename(self.path)
        self._folder = os.path.join(os.path.dirname(os.path.abspath(self.path)), IMAGES)
        rows = _read(self.path)
        self._names = tuple(sorted({name for _, candidates, _ in rows for name in candidates}))
        index_of = {name: index for index, name in enumerate(self._names)}
        self.cues = tuple(
            Cue(
                text,
                tuple(index_of[name] for name in candidates),
                tuple(name in associations for name in candidates),
            )
            for text, candidates, associations in rows
        )
        there = set(os.listdir(self._folder)) if os.path.isdir(self._folder) else set()
        missing = [name for name in self._names if f"{name}.jpg" not in there]
        if missing:
            raise DataError(
                f"{self._folder}: {len(missing):,} of {len(self._names):,} images are not there,"
                f" such as {missing[0]}.jpg; unpack {IMAGES}.zip beside {self.name}"
            )

    @property
    def kind(self) -> str:
        return "associations"

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> bytes:
        """The candidate's picture; ValueError or OSError if it cannot be read."""
        return read_image(self._file(index))

    def key(self, index: int) -> str:
        """The candidate's name."""
        return self._names[index]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all rows, and of the images' sizes."""
        sizes = [os.path.getsize(self._file(index)) for index in range(len(self))]
        content = repr((self.cues, self._names, sizes))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _file(self, index: int) -> str:
        return os.path.join(self._folder, f"{self._names[index]}.jpg")


def _read(path: str) -> list[tuple[str, list[str], list[str]]]:
    """(cue, candidates, associations) of each row."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    if not lines or not set(COLUMNS) <= set(lines[0]):
        known = ", ".join(lines[0]) if lines else "no rows"
        raise DataError(f"{path}: needs the columns {', '.join(COLUMNS)}; has: {known}")
    rows = []
    for number, line in enumerate(lines):
        try:
            lists = [[str(x) for x in json.loads(line[column])] for column in COLUMNS[1:]]
        except (TypeError, ValueError):
            lists = [[], []]
        candidates, associations = lists
        if not (line["cue"] and associations and set(associations) <= set(candidates)):
            raise DataError(
                f"{path}: row {number} needs a cue, and JSON lists of candidates and of"
                " associations among them"
            )
        rows.append((line["cue"], candidates, associations))
    return rows
