"""A folder of images as a source: the user's own pictures, or classes in sub-folders.

In the registry under "folder"; training, evaluators, suites, `evaluate --images` and `dataset` all
read folders with it, by the rules of torchvision's ImageFolder. Images are found at any depth, in
the order of their paths. A picture's label is the sub-folder that it lies in. Its caption stands
in a file of its name beside it, as in img2dataset's "files" format; without such files it is the
label, or without sub-folders the image's name, as words.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import images
from clipjax.data.sources import ARROW, folder_files
from clipjax.data.sources.folder_files import ENDINGS, FolderFiles
from clipjax.data.sources.tar import MAX_TEXT, field_texts, parse
from clipjax.data.sources.tar_table import Choice

CAPTIONS = (".txt", ".caption")  # files that hold the caption of the image beside them, and no more
METADATA = ("metadata.csv", "metadata.jsonl")  # captions in a Hugging Face ImageFolder
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")  # may hold captions, see `sources.table`
PATHS = "path"  # the text_key of captions that are names of folders or files
SPLITS = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|eval|evaluation|extra|unlabell?ed)"
    r"[-_]?\d*",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Folder:
    """Source of the images below a local folder.

    Args:
      path: the folder.
      split: which sub-folder is read where the folder holds splits; "" allows none.
      text_key: "" is the .txt or .caption beside every image, or the path where there are none;
        "path" is the path whatever lies beside. Other values are as for `tar`: "txt", ".ENDING",
        or a field of the .json beside; images without it are left out.

    Attributes:
      top: the folder that is read, `path` or its split.

    Raises:
      ConfigError: no such folder.
      DataError: it holds no images, or splits of which none is asked for; some images lie in
        sub-folders and some do not; a sub-folder holds none; or files beside the images may be
        captions or not.
    """

    name: ClassVar[str] = "folder"

    path: str
    split: str = ""
    text_key: str = ""

    def __post_init__(self):
        if not os.path.isdir(os.path.expanduser(self.path)):
            raise ConfigError(f"folder {self.path}: no such folder (looked from {os.getcwd()})")
        self._check_classes()
        if not self.files:
            raise DataError(
                f"folder {self.top}: none of {len(self._found.images):,} images has what"
                f" text_key={self.text_key} names beside it"
            )
        if unused := self._unused:
            listed = (f"{len(each):,} {why} ({each[0]})" for why, each in unused.items())
            log.warning("folder %s: left out %s", self.top, ", ".join(listed))

    @functools.cached_property
    def top(self) -> str:
        path = os.path.expanduser(self.path)
        folders = folder_files.sub_folders(path) if self.split else []
        if self.split in folders:
            inside = os.path.join(path, self.split)
            if folder_files.sub_folders(inside) or all(map(SPLITS.fullmatch, folders)):
                return inside
        return path

    @functools.cached_property
    def _found(self) -> FolderFiles:
        return folder_files.find(self.top)

    def _check_classes(self) -> None:
        found, where = self._found, f"folder {self.top}"
        classes = found.classes
        if not found.images:
            held = ", ".join(f"{len(each):,} {why}" for why, each in found.others.items())
            but = f"; it holds {held}" if held else ""
            but += f": {ARROW}" if ".arrow" in found.others else ""
            raise DataError(f"{where}: holds no images ({', '.join(ENDINGS)}){but}")
        splits = [name for name in classes if SPLITS.fullmatch(name)]
        if splits and (len(splits) == len(classes) or sum(map(self._holds_folders, splits)) > 1):
            raise DataError(
                f"{where}: holds splits, which are no classes: {', '.join(splits)}; name the one"
                f" that is meant, such as {os.path.join(self.top, splits[0])}"
            )
        if classes and found.loose:
            raise DataError(
                f"{where}: some images lie in sub-folders, which name classes, and"
                f" {found.loose} does not; move it, or name the one folder that is meant"
            )
        if odd := [name for name in classes if not _is_text(name)]:
            raise DataError(
                f"{where}: the class folder {odd[0]!a} has a name that is no UTF-8, so no"
                " prompt can be made of it; rename it"
            )
        empty = [name for name in found.folders if name not in classes]
        if classes and empty:
            listed = ", ".join(f"{name} ({self._contents(name)})" for name in empty[:10])
            raise DataError(
                f"{where}: {len(empty):,} of {len(found.folders):,} folders of classes hold no"
                f" images: {listed}; put images there, or take the folders away"
            )

    def _holds_folders(self, name: str) -> bool:
        return bool(folder_files.sub_folders(os.path.join(self.top, name)))

    def _contents(self, name: str) -> str:
        """What a class folder holds in place of images: "3 .heic"."""
        inside = {
            why: sum(path.split(os.sep)[0] == name for path in each)
            for why, each in self._found.others.items()
        }
        return ", ".join(f"{count:,} {why}" for why, count in inside.items() if count) or "empty"

    @functools.cached_property
    def _texts(self) -> dict[str, tuple[str, str]]:
        """Name of a text → ending of its file, field of the .json; {} where the path is the text.

        Raises:
          DataError: files beside the images may be captions or not.
        """
        found = self._found
        if self.text_key == PATHS:
            return {}
        if self.text_key:
            chosen = Choice.of(image_key="", text_key=self.text_key).texts
            return {name: (f".{ending}", field) for name, (ending, field) in chosen.items()}
        for ending in CAPTIONS:
            if len(found.beside.get(ending, ())) == len(found.images):
                return {ending: (ending, "")}
        names = "folders" if found.classes else "files"
        own = f"with text_key={PATHS} they are the names of {names}"
        for ending, key in {".txt": "txt", ".caption": ".caption", ".json": "FIELD"}.items():
            if beside := found.beside.get(ending):
                raise DataError(
                    f"folder {self.top}: {len(beside):,} of {len(found.images):,} images have a"
                    f" {ending} beside them ({next(iter(beside.values()))}); say what the captions"
                    f" are: text_key={key} takes them from there and leaves out images without,"
                    f" {own}"
                )
        tables = [name for ending in TABLES for name in found.others.get(ending, ())]
        for name in tables:
            at_top = os.sep not in name
            if at_top and (name in METADATA or not found.classes):
                raise DataError(
                    f"folder {self.top}: holds {name}; say what the captions are: source=table"
                    f" with path={os.path.join(self.top, name)} reads them from there, {own}"
                )
        return {}

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the images below the top, sorted."""
        found = self._found
        beside = [found.beside.get(ending, {}) for ending, _ in self._texts.values()]
        if not beside:
            return found.images
        return tuple(file for file in found.images if any(file in each for each in beside))

    @property
    def _unused(self) -> dict[str, Sequence[str]]:
        """Reason → the paths below the top that are no part of the data."""
        found, kept = self._found, set(self.files)
        endings = {ending for ending, _ in self._texts.values()}
        read = {path for ending in endings for path in found.beside.get(ending, {}).values()}
        unused = {
            why: [path for path in each if path not in read] for why, each in found.others.items()
        }
        unused["image without text"] = [file for file in found.images if file not in kept]
        return {why: each for why, each in unused.items() if each}

    @property
    def skipped(self) -> dict[str, int]:
        """What is no part of the data, by reason."""
        return {why: len(each) for why, each in self._unused.items()}

    @property
    def extents(self) -> list[tuple[str, int, int]]:
        """Where the records lie, see `shared_records`."""
        top = os.path.realpath(self.top)
        return [(os.path.join(top, file), 0, 1) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def details(self) -> str:
        """What is read: "photos/train, 10 classes, captions from the folders' names"."""
        classes = len(self._found.classes)
        names = "folders' names" if classes else "files' names"
        texts = ", ".join(f"{end} {field}".strip() for end, field in self._texts.values())
        size = f", {counted(classes, 'class', 'classes')}" if classes else ""
        return f"{self.top}{size}, captions from the {texts or names}"

    @property
    def fingerprint(self) -> str:
        """Of names and sizes; contents are not read."""
        sizes = [os.path.getsize(self._full(file)) for file in self.files]
        content: tuple[Any, ...] = (self.files, sizes)
        if where := self._texts.values():
            texts = [self._beside(file, ending) for file in self.files for ending, _ in where]
            content += (self._texts, [os.path.getsize(self._full(file)) for file in texts if file])
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted; AttributeError without sub-folders."""
        if os.sep not in self.files[0]:
            raise AttributeError("labels")
        return self._found.classes

    def label(self, index: int) -> str:
        """The name of the sub-folder that a record lies in."""
        return self._file(index).split(os.sep)[0]

    def key(self, index: int) -> str:
        """A record's path below the top, made fit for a log line."""
        file = self._file(index)
        return file if file.isprintable() else ascii(file)[1:-1]

    def _file(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 … {len(self) - 1}")
        return self.files[index]

    def caption(self, index: int) -> Any:
        """The text of one record, or texts by field; ValueError or OSError if it cannot be read."""
        file = self._file(index)
        if self._texts:
            texts = {name: self._text(file, *where) for name, where in self._texts.items()}
            return texts if len(texts) > 1 else next(iter(texts.values()))
        words = self.label(index) if os.sep in file else os.path.splitext(file)[0]
        return words.replace("_", " ").replace("-", " ")

    def _text(self, image: str, ending: str, field: str) -> Any:
        """The text of an image in the file of that ending, "" without one."""
        file = self._beside(image, ending)
        if not file:
            return ""
        with open(self._full(file), "rb") as opened:
            data = opened.read(MAX_TEXT)
        if field:
            return field_texts(parse(data), field)
        return data.decode("utf-8-sig", errors="surrogateescape")

    def _beside(self, image: str, ending: str) -> str:
        """The file of that ending that belongs to an image, or ""."""
        return self._found.beside.get(ending, {}).get(image, "")

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record; ValueError or OSError if its image or text cannot be read."""
        file = self._file(index)
        with open(self._full(file), "rb") as opened:
            image = images.from_file(opened.read())
        record = {"image": image, "text": self.caption(index), "key": self.key(index)}
        return {**record, "label": self.label(index)} if os.sep in file else record

    def _full(self, file: str) -> str:
        return os.path.join(self.top, file)


def _is_text(name: str) -> bool:
    """Whether the name of a file is text, and not bytes of an unknown encoding."""
    return not any("\udc80" <= character <= "\udcff" for character in name)
