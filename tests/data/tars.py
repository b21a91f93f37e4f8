"""Small tars for the tests of `sources.tar`: whole ones by tarfile, odd ones header by header."""

import io
import json
import os
import tarfile

import pytest

from clipjax.data.sources import shard_files, tar_index
from clipjax.data.sources.tar import open_tars
from tests.data import fakes


def entry(name, data=b"", *, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def write(path, entries, *, form=tarfile.GNU_FORMAT, **options):
    """A tar of (name, bytes) pairs or of what `entry` gives."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tarfile.open(path, "w", format=form, **options) as file:
        for name, data in entries:
            info, data = entry(name, data) if isinstance(name, str) else (name, data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def pairs(count, *, start=0):
    for index in range(start, start + count):
        yield f"{index:09d}.jpg", picture(index)
        yield f"{index:09d}.json", json.dumps({"caption": f"caption {index}"}).encode()
        yield f"{index:09d}.txt", f"text {index}".encode()


def header(name, size, *, kind=b"0", number=None):
    """A ustar header with the size field as given."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = number if number is not None else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records):
    lines = b""
    for key, value in records.items():
        body = b" %s=%s\n" % (key.replace("_", ".").encode(), value)
        length = len(body) + 1
        while length != len(str(length)) + len(body):
            length += 1
        lines += b"%d%s" % (length, body)
    return lines


def block_of(data):
    return data + bytes(-len(data) % 512)


def raw(path, *parts, end=bytes(1024)):
    path.write_bytes(b"".join(block_of(part) for part in parts) + end)
    return str(path)


def refused(error, pattern, *arguments, **options):
    with pytest.raises(error, match=pattern) as caught:
        open_tars(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listed(path):
    return [
        (name.decode(), size)
        for name, _, size in tar_index.members(shard_files.OpenFile(str(path)))
    ]
