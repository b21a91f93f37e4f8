"""A disk that fails, as a folder's name says: `ENOSPC-after-3` refuses all but its first 3 writes.

`install` puts it between Python and the operating system, for every folder of such a name. What
counts as a write: making a folder, opening a file to write, writing to it, and giving it another
name. Removing always works, and so does what libraries write in C++.
"""

import builtins
import collections
import errno
import io
import os
import re

FOLDER = re.compile(r"[^:]*/(E[A-Z]+)-after-(\d+)(?:/|$)")
done = collections.Counter()  # folder → writes so far


def write(path):
    """Count a write to a path, or refuse it."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    found = FOLDER.match(text) if isinstance(text, str) else None
    if found is None:
        return
    done[found[0]] += 1
    if done[found[0]] > int(found[2]):
        number = getattr(errno, found[1])
        raise OSError(number, os.strerror(number), text)


class File:
    """An open file of such a folder."""

    def __init__(self, file, path):
        self.file, self.path = file, path

    def write(self, data):
        write(self.path)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.file.close()


def install():
    """For the rest of the process."""
    real_open, real_os_open, real_replace = io.open, os.open, os.replace
    real_mkdir, real_rename = os.mkdir, os.rename

    def open_file(file, mode="r", *arguments, **settings):
        if not set("wax+") & set(mode):
            return real_open(file, mode, *arguments, **settings)
        write(file)
        opened = real_open(file, mode, *arguments, **settings)
        is_ours = isinstance(file, (str, os.PathLike)) and FOLDER.match(str(file))
        return File(opened, str(file)) if is_ours else opened

    def open_descriptor(path, flags, *arguments, **settings):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            write(path)
        return real_os_open(path, flags, *arguments, **settings)

    def mkdir(path, *arguments, **settings):
        if not os.path.isdir(path):
            write(path)
        return real_mkdir(path, *arguments, **settings)

    def replace(source, target, **settings):
        write(target)
        return real_replace(source, target, **settings)

    def rename(source, target, **settings):
        write(target)
        return real_rename(source, target, **settings)

    builtins.open = io.open = open_file
    os.open, os.mkdir, os.replace, os.rename = open_descriptor, mkdir, replace, rename
