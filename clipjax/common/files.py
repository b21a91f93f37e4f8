"""Files and folders that users name, local or remote: every program writes through this module.

files.resolve("~/out", setting="--output")      # the path to use; refused if it is none
files.write("runs/a/config.json", text)         # whole or not at all, its folder made
with files.writing("runs/a/big.bin") as file:   # the same, piece by piece
with files.as_local("gs://bucket/x.npz") as x:  # the same, for a library that needs a local file
with files.as_folder("exported") as folder:     # the same, of a folder
with files.errors("runs/a"):                    # for a library that writes by itself

What cannot be written becomes one line with an exit code: 64 where another place must be named, 74
where this one may do later (a full disk, a quota, a bucket on a bad day).
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from clipjax.common.exits import CleanExit, ConfigError, WriteError

PROTOCOLS = ("gs", "s3", "az")  # that etils.epath writes to
WEIGHTS = (*PROTOCOLS, "hf")  # that pretrained weights are read from
ONE_SLASH = re.compile(r"(\w+):/(?!/)")  # what is left of a protocol when a path was tidied up
# Errors that stay until another place is named; all others may pass.
PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR),
    *(errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENODEV, errno.ENXIO),
)
PLACE_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, ImportError)  # of buckets
ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "name another place",
    errno.EACCES: "name another place",
    errno.EPERM: "name another place",
}
PROBE = 4096  # bytes, of `check_writable`
DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # which reading never meets


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a protocol."""
    return "://" in os.fspath(path)


def resolve(
    path: str | os.PathLike[str], *, setting: str, protocols: Sequence[str] | None = PROTOCOLS
) -> str:
    """The path with its `~` replaced, of a protocol that can be used.

    Args:
      path: as the user typed it; "" stays "".
      setting: flag or key that it came from, for errors.
      protocols: that are possible there; () for local paths alone, None where any is.

    Raises:
      ConfigError: another protocol, or there is no such home folder. Taken for local ones, such
        paths would become folders called `memory:` or `~`.
    """
    path = os.fspath(path)
    check_protocol(path, setting=setting, protocols=protocols)
    if is_remote(path):
        return path
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ConfigError(f"{setting}={path}: no such home folder (HOME is not set); write it out")
    return full


def check_protocol(path: str, *, setting: str, protocols: Sequence[str] | None) -> None:
    """Raise ConfigError for a path of a protocol that cannot be used; arguments as `resolve`."""
    if is_remote(path):
        if protocols is not None and path.split("://")[0] not in protocols:
            known = "".join(f", {protocol}://" for protocol in protocols)
            raise ConfigError(f"{setting}={path}: can only be a local path{known}")
    elif slip := ONE_SLASH.match(path):
        raise ConfigError(f"{setting}={path}: write {slip[1]}:// with two slashes, or ./{path}")


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Raises:
      ConfigError, WriteError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        from etils import epath

        with errors(path):
            epath.Path(path).write_bytes(data)  # an object appears whole
        return
    with writing(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int = 2) -> None:
    """`write` a value as JSON that people can read."""
    write(path, json.dumps(value, indent=indent) + "\n")


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], *, compressed: bool = False
) -> None:
    """`write` arrays as an .npz."""
    import io

    import numpy as np

    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)
    write(path, content.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays in an .npz that `write_arrays` wrote."""
    import numpy as np
    from etils import epath

    with epath.Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` as the block ends; errors as `write`."""
    with as_local(path) as local, open(local, "wb") as file:
        yield file


@contextlib.contextmanager
def as_local(path: str | os.PathLike[str]) -> Iterator[str]:
    """A local path to write to: what lies there becomes the file `path` as the block ends.

    Raises:
      ConfigError, WriteError: it cannot be written, there or here.
    """
    with errors(path):
        if is_remote(path):
            from etils import epath

            with temporary_folder() as folder:
                local = os.path.join(folder, "file")
                yield local
                epath.Path(local).copy(epath.Path(path), overwrite=True)
            return
        target = os.path.realpath(path)  # a link stays one
        if os.path.exists(target) and not os.path.isfile(target):
            yield target  # a pipe or device is written to; a folder cannot be
            return
        temporary = _beside(target)
        try:
            yield temporary
            _settle(temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def as_folder(path: str | os.PathLike[str], *, setting: str = "") -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes the local folder `path`, new or empty, as the block ends.

    Raises:
      ConfigError, WriteError: it cannot be written.
    """
    with errors(path, setting=setting):
        target = os.path.realpath(path)
        temporary = _beside(target)
        try:
            os.mkdir(temporary)
            yield pathlib.Path(temporary)
            if os.path.isdir(target):
                os.rmdir(target)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _beside(target: str) -> str:
    """A name for what becomes `target`, in the same folder, which is made."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return os.path.join(os.path.dirname(target), f".{secrets.token_hex(6)}.tmp")


def _settle(file: str) -> None:
    """Bring a file to the disk before its name: after a crash it would be empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        mode = os.fstat(descriptor).st_mode
        if mode & 0o022:  # nobody else may change what was written
            os.fchmod(descriptor, stat.S_IMODE(mode) & ~0o022)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str | os.PathLike[str], mode: str, *, buffering: int = -1) -> IO[Any]:
    """`open` a local file that is not to appear whole: one that grows for long, or is locked.

    Raises:
      ConfigError, WriteError: it cannot be opened; what is done with it has its own errors.
    """
    with errors(path):
        return open(path, mode, buffering, encoding=None if "b" in mode else "utf-8")


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A local folder that is gone after its `with`, or with the program.

    Raises:
      ConfigError, WriteError: it cannot be made.
    """
    with errors("a folder for temporary files (TMPDIR)", what="made"):
        return tempfile.TemporaryDirectory(prefix="clipjax-", ignore_cleanup_errors=True)


def make_folder(path: str | os.PathLike[str], *, setting: str = "", mode: int = 0o777) -> None:
    """Make a folder and those above it, unless they are there.

    Args:
      path: local or remote.
      setting: that names it, for errors.
      mode: of all that are made locally, less what the umask takes away.

    Raises:
      ConfigError, WriteError: it cannot be made; names the setting.
    """
    with errors(path, setting=setting):
        if is_remote(path):
            from etils import epath

            epath.Path(path).mkdir(parents=True, exist_ok=True)
        else:
            _make_folders(os.fspath(path), mode)


def _make_folders(path: str, mode: int) -> None:
    """Make folders, each with the mode that `os.makedirs` gives to the last one alone."""
    if path and not os.path.isdir(path):
        _make_folders(os.path.dirname(path.rstrip("/")), mode)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, or a folder with all that is in it; neither may be there.

    Raises:
      ConfigError, WriteError: it cannot be removed.
    """
    from etils import epath

    with errors(path, what="removed"):
        target = epath.Path(path)
        if target.is_dir() and not os.path.islink(path):
            target.rmtree(missing_ok=True)
        else:
            target.unlink(missing_ok=True)


def move(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file or folder another name, in a folder that is made; what has it gives way.

    Raises:
      ConfigError, WriteError: it cannot be moved.
    """
    from etils import epath

    destination = epath.Path(target)
    make_folder(destination.parent)
    if destination.is_dir():
        remove(destination)
    with errors(target):
        epath.Path(source).replace(destination)


def check_writable(path: str | os.PathLike[str], *, setting: str) -> None:
    """Raise now what `write` would raise later, after hours of work."""
    with errors(path, setting=setting):
        from etils import epath

        if not is_remote(path):
            path = os.path.realpath(path)
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if os.path.exists(path) and not os.path.isfile(path):
                return  # a pipe or device
            os.makedirs(os.path.dirname(path), exist_ok=True)
        probe = epath.Path(path).with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            probe.write_bytes(bytes(PROBE))  # a full disk takes a file of none
        finally:
            with contextlib.suppress(Exception):  # a bucket may let files be made and not removed
                probe.unlink()


@contextlib.contextmanager
def errors(
    path: str | os.PathLike[str], *, setting: str = "", what: str = "written"
) -> Iterator[None]:
    """Turn what goes wrong as the block writes to `path` into one line; it does nothing else.

    Raises:
      ConfigError: another place must be named. Names this one, with its setting, and says why.
      WriteError: this one may do later; says the same.
    """
    try:
        yield
    except CleanExit:
        raise
    except OSError as error:
        raise failure(error, path, setting=setting, what=what) from error
    except Exception as error:  # every cloud's package has its own
        if not is_remote(path):
            raise
        raise failure(error, path, setting=setting, what=what) from error


def clean(error: BaseException) -> CleanExit | None:
    """What to raise in place of an error that nobody expected: None, unless a disk said no.

    Such errors come from writing alone, wherever that was, and are no fault of the program.
    """
    if isinstance(error, OSError) and error.errno in DISKS:
        return failure(error, error.filename or "a file")
    return None


def failure(
    error: Exception, path: str | os.PathLike[str], *, setting: str = "", what: str = "written"
) -> ConfigError | WriteError:
    """What to raise in place of an error of writing: one line, with its exit code."""
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) else ""
    reason = " ".join((reason or f"{type(error).__name__}: {error}").split())[:200]
    if isinstance(error, ImportError):
        reason = f'{reason}; pip install "clipjax[gcs]"' if "gs://" in os.fspath(path) else reason
    elif advice := ADVICE.get(number or 0):
        reason = f"{reason}; {advice}"
    shown = f"{setting}={os.fspath(path)}" if setting else os.fspath(path)
    stays = number in PLACE or isinstance(error, PLACE_ERRORS)
    kind = ConfigError if stays else WriteError
    return kind(f"{shown}: cannot be {what}: {reason}")
