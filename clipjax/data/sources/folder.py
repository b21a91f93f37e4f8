"""A folder of images as a source: the user's own pictures, or classes in sub-folders.

In the registry under "folder"; training, evaluators, suites, `evaluate --images` and `dataset` all
read folders with it, by the rules of torchvision's ImageFolder. Images are found at any depth, in
the order of their paths. A picture's label is the sub-folder that it lies in. Its caption stands
in a file of its name beside it, as in img2dataset's "files" format; without such files it is the
label, or without sub-folders the image's name, as words. Links are followed, as torchvision follows
them; what is no image is passed over, but not unheard: it is kept by reason.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import images
from clipjax.data.source import Extent, Source
from clipjax.data.sources import what_reads
from clipjax.data.sources.shard_paths import KEPT
from clipjax.data.sources.tar import MAX_TEXT, Choice, field_texts, parse

# What Pillow reads without a further package.
ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff"),
)
SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # what systems leave behind, besides .NAME
HIDDEN = "hidden"
NOWHERE = "link that leads nowhere"
TWICE = "link to a folder that is read already"
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
class Folder(Source):
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
        place = os.path.expanduser(self.path)
        if not os.path.isdir(place):
            what = "is no folder" if os.path.exists(place) else "no such folder"
            raise ConfigError(f"folder {self.path}: {what} (looked from {os.getcwd()})")
        self._check_classes()
        if not self.files:
            raise DataError(
                f"folder {self.top}: none of {len(self._listing.images):,} images has what"
                f" text_key={self.text_key} names beside it"
            )
        if unused := self._unused:
            listed = (f"{len(each):,} {why} ({each[0]})" for why, each in unused.items())
            log.warning("folder %s: left out %s", self.top, ", ".join(listed))

    @functools.cached_property
    def top(self) -> str:
        path = os.path.expanduser(self.path)
        folders = sub_folders(path) if self.split else []
        if self.split in folders:
            inside = os.path.join(path, self.split)
            if sub_folders(inside) or all(map(SPLITS.fullmatch, folders)):
                return inside
        return path

    @functools.cached_property
    def _listing(self) -> "FolderFiles":
        return files_below(self.top)

    def _check_classes(self) -> None:
        listing, where = self._listing, f"folder {self.top}"
        classes = listing.classes
        if not listing.images:
            held = ", ".join(f"{len(each):,} {why}" for why, each in listing.others.items())
            but = f"; it holds {held}" if held else ""
            remedy = what_reads(self.top)
            but += f"; {remedy}" if remedy else ""
            raise DataError(f"{where}: holds no images ({', '.join(ENDINGS)}){but}")
        splits = [name for name in classes if SPLITS.fullmatch(name)]
        if splits and (len(splits) == len(classes) or sum(map(self._holds_folders, splits)) > 1):
            raise DataError(
                f"{where}: holds splits, which are no classes: {', '.join(splits)}; name the one"
                f" that is meant, such as {os.path.join(self.top, splits[0])}"
            )
        if classes and listing.loose:
            raise DataError(
                f"{where}: some images lie in sub-folders, which name classes, and"
                f" {listing.loose} does not; move it, or name the one folder that is meant"
            )
        if odd := [name for name in classes if not _is_text(name)]:
            raise DataError(
                f"{where}: the class folder {odd[0]!a} has a name that is no UTF-8, so no"
                " prompt can be made of it; rename it"
            )
        empty = [name for name in listing.folders if name not in classes]
        if classes and empty:
            listed = ", ".join(f"{name} ({self._contents(name)})" for name in empty[:10])
            raise DataError(
                f"{where}: {len(empty):,} of {len(listing.folders):,} folders of classes hold no"
                f" images: {listed}; put images there, or take the folders away"
            )

    def _holds_folders(self, name: str) -> bool:
        return bool(sub_folders(os.path.join(self.top, name)))

    def _contents(self, name: str) -> str:
        """What a class folder holds in place of images: "3 .heic"."""
        inside = {
            why: sum(path.split(os.sep)[0] == name for path in each)
            for why, each in self._listing.others.items()
        }
        return ", ".join(f"{count:,} {why}" for why, count in inside.items() if count) or "empty"

    @functools.cached_property
    def _texts(self) -> dict[str, tuple[str, str]]:
        """Name of a text → ending of its file, field of the .json; {} where the path is the text.

        Raises:
          DataError: files beside the images may be captions or not.
        """
        listing = self._listing
        if self.text_key == PATHS:
            return {}
        if self.text_key:
            chosen = Choice.of(image_key="", text_key=self.text_key).texts
            return {name: (f".{ending}", field) for name, (ending, field) in chosen.items()}
        for ending in CAPTIONS:
            if len(listing.beside.get(ending, ())) == len(listing.images):
                return {ending: (ending, "")}
        names = "folders" if listing.classes else "files"
        own = f"with text_key={PATHS} they are the names of {names}"
        for ending, key in {".txt": "txt", ".caption": ".caption", ".json": "FIELD"}.items():
            if beside := listing.beside.get(ending):
                raise DataError(
                    f"folder {self.top}: {len(beside):,} of {len(listing.images):,} images have a"
                    f" {ending} beside them ({next(iter(beside.values()))}); say what the captions"
                    f" are: text_key={key} takes them from there and leaves out images without,"
                    f" {own}"
                )
        tables = [name for ending in TABLES for name in listing.others.get(ending, ())]
        for name in tables:
            at_top = os.sep not in name
            if at_top and (name in METADATA or not listing.classes):
                raise DataError(
                    f"folder {self.top}: holds {name}; say what the captions are: source=table"
                    f" with path={os.path.join(self.top, name)} reads them from there, {own}"
                )
        return {}

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the images below the top, sorted."""
        listing = self._listing
        beside = [listing.beside.get(ending, {}) for ending, _ in self._texts.values()]
        if not beside:
            return listing.images
        return tuple(file for file in listing.images if any(file in each for each in beside))

    @property
    def _unused(self) -> dict[str, Sequence[str]]:
        """Reason → the paths below the top that are no part of the data."""
        listing, kept = self._listing, set(self.files)
        endings = {ending for ending, _ in self._texts.values()}
        read = {path for ending in endings for path in listing.beside.get(ending, {}).values()}
        unused = {
            why: [path for path in each if path not in read] for why, each in listing.others.items()
        }
        unused["image without text"] = [file for file in listing.images if file not in kept]
        return {why: each for why, each in unused.items() if each}

    @property
    def skipped(self) -> dict[str, int]:
        """What is no part of the data, by reason."""
        return {why: len(each) for why, each in self._unused.items()}

    @property
    def extents(self) -> list[Extent]:
        """Each image file."""
        top = os.path.realpath(self.top)
        return [(os.path.join(top, file), 0, 1) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def details(self) -> str:
        """What is read: "photos/train, 10 classes, captions from the folders' names"."""
        classes = len(self._listing.classes)
        names = "folders' names" if classes else "files' names"
        texts = ", ".join(f"{end} {field}".strip() for end, field in self._texts.values())
        size = f", {counted(classes, 'class', 'classes')}" if classes else ""
        return f"{self.top}{size}, captions from the {texts or names}"

    @property
    def fingerprint(self) -> str:
        """Hash of names and sizes; contents are not read."""
        sizes = [os.path.getsize(self._full(file)) for file in self.files]
        content: tuple[Any, ...] = (self.files, sizes)
        if where := self._texts.values():
            texts = [self._beside(file, ending) for file in self.files for ending, _ in where]
            content += (self._texts, [os.path.getsize(self._full(file)) for file in texts if file])
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """All labels, sorted; None without sub-folders."""
        return self._listing.classes or None

    def label(self, index: int) -> str | None:
        """The name of the sub-folder that a record lies in; None where it lies in none."""
        folder, sep, _ = self.files[self.checked(index)].partition(os.sep)
        return folder if sep else None

    def has_split(self, split: str) -> bool:
        """Whether it is a sub-folder, or of a folder without splits what evaluators ask for."""
        return split in ("train", "test", os.path.basename(os.path.realpath(self.top)))

    def key(self, index: int) -> str:
        """A record's path below the top, made fit for a log line."""
        file = self.files[self.checked(index)]
        return file if file.isprintable() else ascii(file)[1:-1]

    def caption(self, index: int) -> Any:
        """The text of one record, or texts by field; ValueError or OSError if it cannot be read."""
        file = self.files[self.checked(index)]
        if self._texts:
            texts = {name: self._text(file, *where) for name, where in self._texts.items()}
            return texts if len(texts) > 1 else next(iter(texts.values()))
        words = self.label(index) or os.path.splitext(file)[0]
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
        return self._listing.beside.get(ending, {}).get(image, "")

    def image(self, index: int) -> bytes:
        """The file's bytes; ValueError or OSError if it cannot be read."""
        with open(self._full(self.files[self.checked(index)]), "rb") as opened:
            return images.from_file(opened.read())

    def _full(self, file: str) -> str:
        return os.path.join(self.top, file)


def _is_text(name: str) -> bool:
    """Whether the name of a file is text, and not bytes of an unknown encoding."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Paths below a folder.

    Attributes:
      images: sorted.
      beside: ending in lower case → image → the other file of the image's name: {".txt":
        {"dog/1.jpg": "dog/1.txt"}}.
      folders: names of the sub-folders at the top, sorted; those without images too.
      others: HIDDEN, NOWHERE, TWICE or an ending → what is no image.
    """

    images: tuple[str, ...]
    beside: Mapping[str, Mapping[str, str]]
    folders: tuple[str, ...]
    others: Mapping[str, Sequence[str]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the sub-folders that hold images, sorted."""
        return tuple(sorted({file.split(os.sep)[0] for file in self.images if os.sep in file}))

    @property
    def loose(self) -> str:
        """The first image that lies in no sub-folder, or ""."""
        return next((file for file in self.images if os.sep not in file), "")


def files_below(top: str) -> FolderFiles:
    """All files below a local folder, at any depth.

    A link is followed unless it leads to a folder that was read already for the same sub-folder of
    the top: so a circle of links ends.

    Raises:
      DataError: a folder cannot be read.
    """
    walk = _Walk(top)
    walk.look("", seen={_identity(top)})
    return FolderFiles(
        images=tuple(sorted(walk.images)),
        beside=walk.beside,
        folders=tuple(walk.folders),
        others=dict(sorted(walk.others.items(), key=lambda item: (-len(item[1]), item[0]))),
    )


def sub_folders(path: str) -> list[str]:
    """Names of the sub-folders of a folder that are not hidden; DataError if it cannot be read."""
    return [
        entry.name
        for entry in _entries(path)
        if stat.S_ISDIR(_mode(entry)) and not _is_hidden(entry.name)
    ]


class _Walk:
    """What has been seen so far below `top`; paths are relative to it."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.images: list[str] = []
        self.folders: list[str] = []
        self.beside: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self.others: dict[str, list[str]] = collections.defaultdict(list)

    def look(self, folder: str, *, seen: set[tuple[int, int]]) -> None:
        """Note what lies in a folder; `seen` are the folders read for the same class."""
        images, others = [], []
        for entry in _entries(os.path.join(self.top, folder)):
            path = os.path.join(folder, entry.name)
            is_image, mode = entry.name.lower().endswith(ENDINGS), _mode(entry)
            if _is_hidden(entry.name):
                if is_image or stat.S_ISDIR(mode):
                    self.others[HIDDEN].append(path)
            elif stat.S_ISDIR(mode):
                self._enter(path, seen=seen if folder else set(seen))
            elif stat.S_ISREG(mode):
                (images if is_image else others).append(entry.name)
            else:
                self.others[NOWHERE if entry.is_symlink() else "special file"].append(path)
                if not folder and not is_image:
                    self.folders.append(path)  # a class, as far as one can tell
        self._pair(folder, images=images, others=others)

    def _enter(self, path: str, *, seen: set[tuple[int, int]]) -> None:
        if os.sep not in path:
            self.folders.append(path)
        identity = _identity(os.path.join(self.top, path))
        if identity in seen:
            self.others[TWICE].append(path)
            return
        seen.add(identity)
        self.look(path, seen=seen)

    def _pair(self, folder: str, *, images: list[str], others: list[str]) -> None:
        """Note the images of one folder, and the files of their names beside them."""
        of_stem: dict[str, list[str]] = collections.defaultdict(list)
        for name in images:
            of_stem[os.path.splitext(name)[0]].append(os.path.join(folder, name))
        for same in of_stem.values():
            self.images += same
        for name in others:
            stem, ending = os.path.splitext(name)
            path, ending = os.path.join(folder, name), ending.lower()
            self.others[ending or "without ending"].append(path)
            self.beside[ending].update(dict.fromkeys(of_stem.get(stem, ()), path))


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {path}: cannot be read ({error.strerror})") from None


def _mode(entry: os.DirEntry[str]) -> int:
    """The mode of a file, or of what a link leads to; 0 of a link that leads nowhere."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM or name.endswith(KEPT)


def _identity(path: str) -> tuple[int, int]:
    """Device and inode, which a folder and all links to it share."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
