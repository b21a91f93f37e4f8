"""What lies below a folder of images; `sources.folder` decides what it means.

Links are followed, as torchvision's ImageFolder follows them. Nothing is passed over unheard: what
is no image is kept by reason.
"""

import collections
import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence

from clipjax.common.exits import DataError

# What Pillow reads without a further package.
ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff"),
)
SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # what systems leave behind, besides .NAME
HIDDEN = "hidden"
NOWHERE = "link that leads nowhere"
TWICE = "link to a folder that is read already"


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


def find(top: str) -> FolderFiles:
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
    return name.startswith(".") or name in SYSTEM


def _identity(path: str) -> tuple[int, int]:
    """Device and inode, which a folder and all links to it share."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
