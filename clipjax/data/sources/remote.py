"""Remote files: size and version, listing, and fetching whole files with retries.

`http://` and `https://` go through the standard library; everything else through fsspec, whose
packages for a protocol are extras (`gs://`: `pip install "clipjax[gcs]"`). Used by
`sources.shard_files` and `sources.shard_paths`.
"""

import email.message
import functools
import hashlib
import http.client
import logging
import os
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from clipjax.common import files, urls
from clipjax.common.exits import CleanExit, ConfigError, RemoteError

ATTEMPTS = 7  # about a minute and a half in all
FIRST_WAIT = 1.0  # seconds, then doubled; up to half as much again is added by chance
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 20
FINAL = (400, 401, 403, 404, 405, 410)  # HTTP answers that another attempt will not change

T = TypeVar("T")

log = logging.getLogger(__name__)


def is_remote(path: str) -> bool:
    """Whether a path names a protocol."""
    return "://" in path


def describe(path: str) -> tuple[int, str]:
    """Size in bytes, and a text that changes when the file does.

    Raises ConfigError where no package is installed for the protocol, and as `with_retries`.
    """
    return with_retries(_describe_http if is_http(path) else _describe_fsspec, path)


def fetch(path: str, *, to: str, size: int) -> None:
    """Copy a remote file of `size` bytes to the local file `to`.

    A copy that ends early is tried again.

    Raises:
      ConfigError, WriteError: `to` cannot be written.
      OSError, RemoteError: as `with_retries`.
    """

    def once(path: str) -> None:
        source = _request(path, "GET") if is_http(path) else _file_system(path).open(path, "rb")
        with source, files.open_file(to, "wb") as target:
            while chunk := source.read(CHUNK):
                with files.errors(to):  # a disk's no is not the network's, and final
                    target.write(chunk)
                    target.flush()
        copied = os.path.getsize(to)
        if copied != size:
            raise OSError(f"{urls.shown(path)}: {copied:,} of {size:,} bytes came")

    with_retries(once, path)


def is_shard(name: str, *, ending: str) -> bool:
    """Whether a file's name has the ending, with "-00003-of-00010" after it or without."""
    return re.search(re.escape(ending) + r"(-\d+-of-\d+)?$", name) is not None


def find(pattern: str, *, ending: str) -> list[str] | None:
    """Files behind a remote pattern, or below a remote folder those with `ending`, sorted.

    None where the protocol cannot list (`https://`): the name is then taken as it is.
    """
    if is_http(pattern):
        return None
    system = _file_system(pattern)
    scheme = pattern.split("://")[0]

    def look(pattern: str) -> list[str]:
        if any(letter in pattern for letter in "*?["):
            names = system.glob(pattern)
        elif is_shard(pattern, ending=ending):
            names = [pattern] if system.exists(pattern) else []
        else:
            names = map(str, system.ls(pattern, detail=False))
            names = [name for name in names if is_shard(name, ending=ending)]
        return sorted(f"{scheme}://{name.split('://')[-1].lstrip('/')}" for name in map(str, names))

    try:
        return with_retries(look, pattern)
    except FileNotFoundError:
        return []


def read(path: str) -> bytes:
    """The content of a small file, local or remote."""
    if not is_remote(path):
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()

    def once(path: str) -> bytes:
        source = _request(path, "GET") if is_http(path) else _file_system(path).open(path, "rb")
        with source:
            return source.read()

    return with_retries(once, path)


def with_retries(call: Callable[[str], T], path: str) -> T:
    """call(path), tried ATTEMPTS times.

    Raises:
      OSError: there is no such file, or it may not be read; told at once.
      RemoteError: it does not come. Taken for a bad record instead, an outage would change which
        records a run sees.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call(path)
        except CleanExit:
            raise
        except Exception as error:  # every cloud's package has its own
            reason = (
                f"{urls.shown(path)}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
            code = getattr(error, "code", None)
            if isinstance(error, (FileNotFoundError, PermissionError)) or code in FINAL:
                kind = FileNotFoundError if code in (None, 404, 410) else PermissionError
                raise kind(reason) from None
            if attempt == ATTEMPTS:
                raise RemoteError(f"{reason}, after {ATTEMPTS} attempts") from None
            log.warning("%s; attempt %d of %d", reason, attempt, ATTEMPTS)
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(1.0, 1.5))
    raise AssertionError("unreachable")


def is_http(path: str) -> bool:
    """Whether the standard library fetches it."""
    return path.startswith(("http://", "https://"))


def version_seconds(version: str) -> int:
    """A file's version as a number of 31 bits, fit for an mtime in seconds."""
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:4], "little") >> 1


def _describe_http(path: str) -> tuple[int, str]:
    with _request(path, "HEAD") as answer:
        headers: email.message.Message = answer.headers
        size = headers.get("Content-Length", "")
        if not size.isdigit():
            raise PermissionError(f"{urls.shown(path)}: the server does not tell its size")
        return int(size), headers.get("ETag") or headers.get("Last-Modified") or ""


def _request(path: str, method: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(path, method=method, headers={"User-Agent": "clipjax"})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _describe_fsspec(path: str) -> tuple[int, str]:
    info = _file_system(path).info(path)
    version = next(
        (str(info[key]) for key in ("etag", "md5Hash", "ETag", "mtime", "created") if key in info),
        "",
    )
    return int(info["size"]), version


@functools.cache
def _system_of(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        extra = ': pip install "clipjax[gcs]"' if protocol in ("gs", "gcs") else f" ({error})"
        raise ConfigError(
            f"config.data.path: {protocol}:// needs a package that is not installed{extra}"
        ) from None


def _file_system(path: str) -> Any:
    return _system_of(path.split("://")[0])
