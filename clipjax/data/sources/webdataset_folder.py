"""Evaluation sets in the folder layout of CLIP_benchmark and DataComp, as a source.

    FOLDER/SPLIT/nshards.txt, FOLDER/SPLIT/0.tar …    image with .cls, .txt or .npy
    FOLDER/classnames.txt                             line i names class i, see `_class_names`
    FOLDER/zeroshot_classification_templates.txt      with {c} for the name
    FOLDER/dataset_type.txt                           "retrieval" or "multilabel", if it is one

`evals.suites.set_data` opens these. The label key of a class is its number, as the data have it in
.cls; names belong to numbers by the lines of the folder's own file.
"""

import functools
import hashlib
import io
import os
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import DataError
from clipjax.data import captions
from clipjax.data.source import Source
from clipjax.data.sources import tar, tar_index
from clipjax.data.sources.shard_files import OpenFile, ShardFiles

IMAGES = ("webp", "png", "jpg", "jpeg")
KINDS = ("classification", "retrieval", "multilabel")
CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
OPEN_FILES = 64


class WebDatasetFolder(Source):
    """One split; a record is {"image", "key"} with "label", or "text" (a list of captions).

    Args:
      path: the folder, local or remote.
      split: a sub-folder with shards.
      files: where indexes and copies of remote shards are kept.

    Attributes:
      kind: of KINDS.
      class_names: of each class, None where the folder does not tell.
      templates: with {} for the name; () where the folder does not tell.

    Raises:
      DataError: no such split, shards missing or damaged, a sample without image or label.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, split: str = "test", files: ShardFiles | None = None
    ):
        self.path, self.split = os.fspath(path).rstrip("/"), split
        self.name = os.path.basename(self.path)
        self.files = files or ShardFiles()
        kind = self._lines("dataset_type.txt")
        self._kind = kind[0].lower() if kind else KINDS[0]
        if self.kind not in KINDS:
            raise DataError(f"{self.path}/dataset_type.txt: {self.kind!r} is none of {KINDS}")
        self.templates = tuple(line.replace("{c}", "{}") for line in self._lines(TEMPLATES) or ())
        self.paths = self._paths()
        self._start()
        self.class_names = self._class_names()

    @property
    def kind(self) -> str:
        return self._kind

    def __len__(self) -> int:
        return len(self._shard)

    def image(self, index: int) -> bytes:
        """The image member; ValueError if it is damaged."""
        return self._member("image", index)

    def key(self, index: int) -> str:
        """The shard's number and the sample's name in it."""
        return f"{self._shard[index]}.tar/{self._keys[index]}"

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The keys of all classes, "0", "1", …; None where there are no classes."""
        if self.kind == "retrieval":
            return None
        if self.class_names is not None:
            return tuple(map(str, range(len(self.class_names))))
        if self.kind == "multilabel":
            return tuple(map(str, range(len(self.targets(0)[0]))))
        return tuple(map(str, sorted({self._number(i) for i in range(len(self))})))

    def label(self, index: int) -> str | None:
        """The class key of a record, where it has one class; DataError as `labels`."""
        return str(self._number(index)) if self.kind == KINDS[0] else None

    def _number(self, index: int) -> int:
        """The number in a record's .cls; DataError where it is none."""
        data = self._member("cls", index, limit=tar.MAX_TEXT)
        try:
            return int(data.strip().removesuffix(b".0"))  # as pandas writes it
        except ValueError:
            raise DataError(
                f"{self.path}: sample {self.key(index)}: its .cls is {data[:20]!r}, no number"
            ) from None

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [C] twice, of a multi-label set: classes in the image, and classes to ignore.

        Raises DataError where the .npy is no list of numbers from 0 on.
        """
        array = self._array(index)
        numbers = array.ndim == 1 and array.dtype.kind in "buif"
        if not numbers or not (array >= 0).all():  # nor is a NaN
            shown = " ".join(str(array).split())[:40]
            raise DataError(
                f"{self.path}: sample {self.key(index)}: its .npy needs a number for each class, 0"
                f" for those that are not in the image, and has {shown}, {array.ndim} dimensions"
            )
        positive = array > 0
        return positive, np.zeros(positive.shape, bool)

    def groups(self, index: int) -> np.ndarray:
        """int64 [fields]: the numbers of the .npy beside a class, such as region or income."""
        return self._array(index).astype(np.int64).reshape(-1)

    def caption(self, index: int) -> list[str] | None:
        """The captions of one image, one a line of the .txt; None of other kinds than retrieval."""
        if self.kind != "retrieval":
            return None
        data = self._member("txt", index, limit=tar.MAX_TEXT)
        return data.decode("utf-8", errors="surrogateescape").splitlines()

    @property
    def fingerprint(self) -> str:
        """Hash of keys, sizes of the members and the shards' bytes."""
        content = hashlib.sha256(repr((self.split, self.kind, self._sizes)).encode())
        for name in sorted(self._extents):
            content.update(name.encode() + self._extents[name].tobytes())
        content.update("\n".join(self._keys).encode())
        return content.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "split": self.split, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        WebDatasetFolder.__init__(self, **state)

    def _class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by number; None without the file.

        An empty line between names may be a class without one (CLEVR's third distance has none) or
        nothing but space; the labels say which. Those before and after the names are space.
        """
        try:
            content = captions.file_text(f"{self.path}/{CLASS_NAMES}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        lines = [captions.clean(line) for line in captions.LINE_END.split(content)]
        filled = [i for i, line in enumerate(lines) if line]
        lines = lines[filled[0] : filled[-1] + 1] if filled else []
        named = [line for line in lines if line]
        if len(named) == len(lines) or self.kind != "classification":
            return tuple(named)
        classes = 1 + max(map(self._number, range(len(self))))
        return tuple(named if classes <= len(named) else lines)

    def _lines(self, name: str) -> list[str] | None:
        """Lines of a text file of the folder, without stray spaces; None without the file."""
        try:
            return [captions.clean(line) for line in captions.lines(f"{self.path}/{name}")]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _paths(self) -> list[str]:
        lines = self._lines(f"{self.split}/nshards.txt")
        if not lines or not lines[0].isdigit():
            folder = epath.Path(self.path)
            splits = sorted(p.parent.name for p in folder.glob("*/nshards.txt"))
            raise DataError(
                f"{self.path}: has no split {self.split!r} (no {self.split}/nshards.txt with a"
                f" number); splits: {', '.join(splits) or 'none'}"
            )
        return [f"{self.path}/{self.split}/{k}.tar" for k in range(int(lines[0]))]

    def _start(self) -> None:
        self._open = functools.lru_cache(OPEN_FILES)(self._open_shard)
        wanted = {"retrieval": "txt", "multilabel": "npy"}.get(self.kind, "cls")
        shards, keys, sizes = [], [], []
        extents: dict[str, list[np.ndarray]] = {"image": [], wanted: []}
        for number, path in enumerate(self.paths):
            try:
                index = tar_index.load(path, files=self.files)
            except OSError as error:
                raise DataError(
                    f"{path}: shard {number} of {len(self.paths)} that nshards.txt tells of"
                    f" cannot be read ({error.strerror or error}); copy it again"
                ) from None
            names = _keys(index)
            for what, extensions in (("image", IMAGES), (wanted, (wanted,))):
                extent, _ = tar.extents(index, extensions)
                none = np.flatnonzero(extent[0] == 0)
                if len(none):
                    raise DataError(
                        f"{path}: sample {names[none[0]]} has no"
                        f" {'image' if what == 'image' else f'.{what}'}, and {len(none) - 1} more"
                        f" have none; this folder's kind is {self.kind}"
                    )
                extents[what].append(extent)
            if "npy" in index.extension_names and wanted != "npy":
                extents.setdefault("npy", []).append(tar.extents(index, ("npy",))[0])
            shards.append(np.full(len(names), number))
            keys += names
            sizes.append(index.identity[0])
        if not keys:
            raise DataError(f"{self.path}: split {self.split!r} holds no samples")
        self._shard, self._keys, self._sizes = np.concatenate(shards), keys, sizes
        self._extents = {
            name: np.concatenate(parts, axis=1)
            for name, parts in extents.items()
            if len(parts) == len(shards)
        }

    def _open_shard(self, number: int) -> OpenFile:
        return self.files.opened(self.paths[number], opener=OpenFile)

    def _member(self, name: str, index: int, *, limit: int = tar.MAX_IMAGE) -> bytes:
        extent = self._extents[name][:, index]
        return tar.member(self._open(int(self._shard[index])), extent, limit=limit)

    @property
    def has_groups(self) -> bool:
        """Whether every sample has a .npy beside its class."""
        return self.kind == KINDS[0] and "npy" in self._extents

    def _array(self, index: int) -> np.ndarray:
        data = self._member("npy", index, limit=tar.MAX_TEXT)
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise DataError(
                f"{self.path}: sample {self.key(index)}: its .npy cannot be read ({error})"
            ) from None


def _keys(index: tar_index.Index) -> list[str]:
    data = index.keys.tobytes()
    ends = index.key_ends.tolist()
    return [
        data[begin:end].decode("utf-8", "replace")
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
