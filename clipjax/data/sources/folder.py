"""A folder of images as a source: the user's own pictures, or classes in sub-folders.

In the registry under "folder", and opened by `evaluate --images`. Images are found at any depth,
in the order of their paths. A picture's label is the sub-folder of `path` that it lies in; its
text is the label, or without sub-folders the file's name, as words.
"""

import dataclasses
import functools
import hashlib
import os
from typing import Any, ClassVar

from clipjax.common.exits import ConfigError, DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class Folder:
    """Source of the images below a local folder.

    Args:
      path: the folder; a data set's splits are folders of their own, and each is a source.

    Raises:
      ConfigError: no such folder.
      DataError: it holds no images, or some lie in sub-folders and some do not.
    """

    name: ClassVar[str] = "folder"

    path: str

    def __post_init__(self):
        if not os.path.isdir(os.path.expanduser(self.path)):
            raise ConfigError(f"folder {self.path}: no such folder (looked from {os.getcwd()})")
        labelled = {os.sep in file for file in self.files}
        if not labelled:
            raise DataError(f"folder {self.path}: holds no images ({', '.join(ENDINGS)})")
        if len(labelled) == 2:
            loose = next(file for file in self.files if os.sep not in file)
            raise DataError(
                f"folder {self.path}: some images lie in sub-folders, which name classes, and"
                f" {loose} does not; move it, or name the one folder that is meant"
            )

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the images below the folder, sorted."""
        top = os.path.expanduser(self.path)
        found = [
            os.path.relpath(os.path.join(folder, file), top)
            for folder, _, files in os.walk(top)
            for file in files
            if file.lower().endswith(ENDINGS) and not file.startswith(".")
        ]
        return tuple(sorted(found))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """Of names and sizes; contents are not read."""
        sizes = [os.path.getsize(self._full(file)) for file in self.files]
        return hashlib.sha256(repr((self.files, sizes)).encode()).hexdigest()[:16]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted; AttributeError without sub-folders."""
        if os.sep not in self.files[0]:
            raise AttributeError("labels")
        return tuple(sorted({self.label(index) for index in range(len(self))}))

    def label(self, index: int) -> str:
        """The name of the sub-folder that a record lies in."""
        return self.key(index).split(os.sep)[0]

    def key(self, index: int) -> str:
        """A record's path below the folder."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 … {len(self) - 1}")
        return self.files[index]

    def caption(self, index: int) -> str:
        key = self.key(index)
        words = self.label(index) if os.sep in key else os.path.splitext(key)[0]
        return words.replace("_", " ").replace("-", " ")

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.key(index)
        with open(self._full(key), "rb") as file:
            found = {"image": file.read(), "text": self.caption(index), "key": key}
        return {**found, "label": self.label(index)} if os.sep in key else found

    def _full(self, file: str) -> str:
        return os.path.join(os.path.expanduser(self.path), file)
