"""A file that grows piece by piece while a run goes on, whatever its disk or its bucket does.

Used by `metric_writer` for what a run tells: losing a line of it must not end the run.
"""

import concurrent.futures
import contextlib
import errno
import logging
import os
import time
from typing import Any

from etils import epath

from clipjax.common import files

UPLOAD_SECONDS = 30.0  # between copies to a bucket, which cannot append
TELL_SECONDS = 600.0  # between notes that something is amiss

log = logging.getLogger(__name__)


class AppendedFile:
    """Pieces of bytes, each whole in the file or not at all; what does not fit yet comes later.

    Args:
      path: local; or remote, then it grows in a temporary folder here and is copied now and then.

    Raises:
      ConfigError, WriteError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.target = epath.Path(path)
        self.local = os.fspath(path)
        self.uploader: concurrent.futures.ThreadPoolExecutor | None = None
        self.upload: concurrent.futures.Future[Any] | None = None
        self.uploaded, self.told = time.monotonic(), -TELL_SECONDS
        self.unwritten = b""
        with files.errors(path):
            if files.is_remote(path):
                self.folder = files.temporary_folder()
                self.local = os.path.join(self.folder.name, self.target.name)
                if self.target.exists():
                    self.target.copy(self.local)
                self.uploader = concurrent.futures.ThreadPoolExecutor(1, "upload")
            self.file = files.open_file(self.local, "ab", buffering=0)

    def append(self, piece: bytes) -> None:
        """Write a piece, after those that did not fit before."""
        self.unwritten += piece
        end = os.fstat(self.file.fileno()).st_size
        try:
            if self.file.write(self.unwritten) < len(self.unwritten):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):  # of a disk that is gone; half a line is cut later
                self.file.truncate(end)
            self._tell(f"cannot be written ({error.strerror}), {len(self.unwritten):,} bytes wait")
            return
        self.unwritten = b""
        if time.monotonic() - self.uploaded > UPLOAD_SECONDS:
            self.send()

    def send(self) -> None:
        """Start copying the file to where it belongs, unless that is under way."""
        if self.uploader is not None and (self.upload is None or self.upload.done()):
            self.upload = self.uploader.submit(self._send)
            self.uploaded = time.monotonic()

    def sync(self) -> None:
        """Until all that was written is where it belongs, or could not be brought there."""
        if self.uploader is not None:
            if self.upload is not None:
                self.upload.result()
            self.send()
            assert self.upload is not None
            self.upload.result()

    def close(self) -> None:
        """`sync`, then let go."""
        self.append(b"")
        self.sync()
        self.file.close()

    def _send(self) -> None:
        try:
            epath.Path(self.local).copy(self.target, overwrite=True)
        except Exception as error:  # every cloud's package has its own
            self._tell(f"cannot be written ({type(error).__name__}: {str(error)[:200]})")

    def _tell(self, problem: str) -> None:
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            log.warning("%s %s; training goes on", self.target, problem)
