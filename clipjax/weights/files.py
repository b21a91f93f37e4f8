"""Files of weights that cannot run code: safetensors, NumPy archives without objects, small JSON.

Headers are bounded before they are read, values are read and written one by one: a conversion holds
a model once, whatever its file's size.
"""

import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from clipjax.common import git_lfs
from clipjax.common.exits import ConfigError, DataError
from clipjax.common.files import as_folder, check_writable, writing
from clipjax.common.files import write_json as write_json
from clipjax.weights.arrays import Tensors

MAX_HEADER = 100 << 20  # bytes, safetensors' own limit
MAX_JSON = 64 << 20  # bytes; tokenizer.json of a large vocabulary has 34 MB
MAX_NPY_HEADER = 10_000  # bytes
FLOATS = {
    name: np.dtype(dtype)
    for name, dtype in (
        ("F16", np.float16),
        ("BF16", jnp.bfloat16),
        ("F32", np.float32),
        ("F64", np.float64),
    )
}


class SafeTensors:
    """`arrays.Tensors` of one file, or of several that hold one model.

    Values are read, not mapped: a mapped file's pages would stay in memory beside the values.

    Raises:
      DataError: one is missing or damaged; names it.
    """

    def __init__(self, *files: pathlib.Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._places: dict[str, tuple[pathlib.Path, int, str]] = {}  # file, first byte, dtype
        for file in files:
            try:
                self._add(file)
            except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
                raise DataError(f"{file.name}: {_line(error)}") from None

    def _add(self, file: pathlib.Path) -> None:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length:,} bytes; {MAX_HEADER:,} are read")
            header = opened.read(length)
        try:
            with safetensors.safe_open(file, framework="numpy"):
                pass  # every array lies in the file, none in another, and nothing else does
        except safetensors.SafetensorError:
            _check_length(header, before=8 + length, size=file.stat().st_size)
            raise
        for name, array in json.loads(header).items():
            if name == "__metadata__":
                continue
            if name in self.shapes:
                raise ValueError(f"{name} is in two files")
            self.shapes[name] = tuple(array["shape"])
            if array["dtype"] in FLOATS:
                self.dtypes[name] = FLOATS[array["dtype"]]
            self._places[name] = file, 8 + length + array["data_offsets"][0], array["dtype"]

    def read(self, name: str) -> np.ndarray:
        file, start, dtype = self._places[name]
        if name not in self.dtypes:
            raise DataError(f"{name} holds {dtype}, not floating-point numbers")
        shape = self.shapes[name]
        try:
            array = np.fromfile(file, self.dtypes[name], count=math.prod(shape), offset=start)
            return array.reshape(shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{name}: {_line(error)}") from None


def _check_length(header: bytes, *, before: int, size: int) -> None:
    """Raise ValueError for a file of `size` bytes that ends before its arrays do.

    Args:
      header: what a file that cannot be opened says of its arrays; it may be anything.
      before: bytes before the first array.
      size: bytes there are.
    """
    try:
        arrays = [one for name, one in json.loads(header).items() if name != "__metadata__"]
        whole = before + max((int(one["data_offsets"][1]) for one in arrays), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    if size < whole:
        raise ValueError(f"cut short: {size:,} of {whole:,} bytes are there; fetch it again")


class Npz:
    """`arrays.Tensors` of a NumPy archive.

    Raises:
      DataError: it is damaged, or holds objects.
    """

    def __init__(self, file: pathlib.Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        try:
            self._archive = zipfile.ZipFile(file)
            for info in self._archive.infolist():
                name = info.filename.removesuffix(".npy")
                shape, dtype = self._header(info.filename)
                bytes_needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if bytes_needed > info.file_size:
                    raise ValueError(
                        f"{name} {list(shape)} does not fit its {info.file_size} bytes"
                    )
                if name in self.shapes:
                    raise ValueError(f"{name} is in it twice")
                self.shapes[name], self.dtypes[name] = shape, dtype
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{file.name}: {_line(error)}") from None

    def _header(self, member: str) -> tuple[tuple[int, ...], np.dtype]:
        with self._archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if reader is None:
                raise ValueError(f"{member}: of version {version}")
            shape, _, dtype = reader(stream, max_header_size=MAX_NPY_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{member} holds Python objects, which are code")
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        try:
            with self._archive.open(f"{name}.npy") as stream:
                return np.lib.format.read_array(
                    stream, allow_pickle=False, max_header_size=MAX_NPY_HEADER
                )
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{name}: {_line(error)}") from None


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      DataError: it is missing, too long, or no JSON object; names it.
    """
    try:
        if file.is_fifo():
            raise ValueError("a pipe, not a file")
        if file.stat().st_size > MAX_JSON:
            raise ValueError(f"longer than {MAX_JSON:,} bytes")
        content = file.read_bytes()
        if git_lfs.is_pointer(content):
            raise ValueError(git_lfs.FETCH)
        read = json.loads(content)
        if not isinstance(read, dict):
            raise ValueError("no JSON object")
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name}: {_line(error)}") from None
    return read


def place_of(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Where a new folder will be.

    Raises:
      ConfigError, WriteError: there is something already, it is no local folder, or it cannot be
        made.
    """
    path = os.fspath(folder)
    if "://" in path:
        raise ConfigError(f"--output={path}: name a local folder, and copy that to where it goes")
    target = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--output={path}: exists already; name a new folder")
    if not target.exists():
        check_writable(target, setting="--output")
    return target


def write_folder(folder: str | os.PathLike[str], fill: Callable[[pathlib.Path], None]) -> None:
    """Make a folder that appears whole or not at all, with what `fill` writes; errors as
    `place_of`."""
    with as_folder(place_of(folder), setting="--output") as made:
        fill(made)


def write_safetensors(file: pathlib.Path, tensors: Tensors) -> None:
    """Write arrays, each as it is read, with the mark that PyTorch's readers look for."""
    codes = {dtype: code for code, dtype in FLOATS.items()}
    # The widest first: so all lie at multiples of their width.
    names = sorted(tensors.shapes, key=lambda name: -tensors.dtypes[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, dtype = tensors.shapes[name], tensors.dtypes[name]
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # which aligns the values
    with writing(file) as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            value = tensors.read(name)
            assert (value.shape, value.dtype) == (tensors.shapes[name], tensors.dtypes[name]), name
            opened.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
