"""Headers of tars: every format tarfile writes, and every way to be damaged."""

import io
import os
import pathlib
import tarfile
import tracemalloc

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.sources import shard_files, tar_index
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar import open_tars
from tests.data import tars

FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_those_that_tarfile_finds(tmp_path, form):
    rng = np.random.default_rng(0)
    names = [f"plain{i}.jpg" for i in range(3)] + ["./dot/a.txt", "deep/" * 15 + "n" * 60 + ".jpg"]
    if form != "ustar":
        names += ["long" * 60 + ".jpg", "d/" * 300 + "x.txt", "n" * 99 + ".jpg", "n" * 97 + ".jpg"]
    names += ["café/Ω.jpg", "n" * 96 + ".jpg"]
    entries = [tars.entry("folder", kind=tarfile.DIRTYPE)]
    for index, name in enumerate(names):
        data = rng.bytes(int(rng.integers(0, 2000)))
        extra = {"pax_headers": {"comment": "é = 7\n8 x=y"}} if form == "pax" else {}
        entries += [
            tars.entry(name, data, mtime=1.5, **extra),
            tars.entry(f"{index}.txt", data[:600]),
        ]
    path = tars.write(
        tmp_path / "a.tar",
        entries,
        form=FORMATS[form],
        **({"pax_headers": {"global": "value"}} if form == "pax" else {}),
    )
    with tarfile.open(path) as file:
        expected = [
            (info.name.encode(), info.offset_data, info.size) for info in file if info.isreg()
        ]
    assert list(tar_index.members(shard_files.OpenFile(path))) == expected
    assert len(expected) == 2 * len(names)


def test_sizes_in_every_notation(tmp_path):
    data = b"x" * 700
    notations = {
        "octal": b"%011o\0" % 700,
        "spaces": b"      1274 \0",
        "no_end": b"%012o" % 700,
        "base256": b"\x80" + (700).to_bytes(11),
    }
    parts = [
        p for name, number in notations.items() for p in (tars.header(name, 0, number=number), data)
    ]
    over = tars.pax(size=b"700", path=b"by/pax.jpg", mtime=b"1.25", comment=b"a\nb")
    parts += [tars.header("x", len(over), kind=b"x"), over, tars.header("cut", 3), data]
    parts += [tars.header("after", 1), b"y"]
    path = tars.raw(tmp_path / "a.tar", *parts)
    assert tars.listed(path) == [
        *((name, 700) for name in notations),
        ("by/pax.jpg", 700),
        ("after", 1),
    ]


def test_records_for_all_members_do_not_pile_up(tmp_path):
    parts = []
    for number in range(200):
        records = tars.pax(**{f"unused_{number}": b"x" * 50_000})
        parts += [tars.header("global", len(records), kind=b"g"), records]
    path = tars.raw(tmp_path / "a.tar", *parts, tars.header("1.jpg", 1), b"x")
    tracemalloc.start()
    try:
        assert tars.listed(path) == [("1.jpg", 1)]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_global_and_deleted_pax_records(tmp_path):
    every, none = tars.pax(comment=b"all", path=b"everywhere"), tars.pax(path=b"")
    path = tars.raw(
        tmp_path / "a.tar",
        *(tars.header("g", len(every), kind=b"g"), every, tars.header("1", 0)),
        *(tars.header("x", len(none), kind=b"x"), none, tars.header("2", 0), tars.header("3", 0)),
    )
    assert tars.listed(path) == [("everywhere", 0), ("2", 0), ("everywhere", 0)]


@pytest.mark.parametrize(
    "records",
    [b"5 a=b\n", b"99 a=b\n", b"-6 a=b\n", b"6 axb\n", b"x a=b\n", b"\n", b"0 a=b\n", b"6 a=bb"],
)
def test_damaged_pax_records(tmp_path, records):
    path = tars.raw(
        tmp_path / "a.tar", tars.header("x", len(records), kind=b"x"), records, tars.header("1", 0)
    )
    tars.refused(DataError, "a.tar: damaged PAX records at byte 512 of", path)


@pytest.mark.parametrize("number", [b"\xff" * 12, b"-0000000001\0", b"0000000_001\0", b"9" * 12])
def test_damaged_sizes(tmp_path, number):
    path = tars.raw(tmp_path / "a.tar", tars.header("1.jpg", 0, number=number), b"x")
    tars.refused(DataError, "a.tar: damaged size in a header", path)
    records = tars.pax(size=number.rstrip(b"\0").replace(b"9", b"x"))
    path = tars.raw(
        tmp_path / "b.tar", tars.header("x", len(records), kind=b"x"), records, tars.header("1", 0)
    )
    tars.refused(DataError, "b.tar: damaged size in PAX records", path)


def test_headers_that_add_up_signed_bytes(tmp_path):
    block = bytearray(tars.header("é.jpg", 0))
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in block)
    assert tars.listed(tars.raw(tmp_path / "a.tar", bytes(block))) == [("é.jpg", 0)]


def test_extended_headers_are_capped_and_loops_end(tmp_path):
    size = tar_index.MAX_EXTENDED + 1
    path = tars.raw(
        tmp_path / "a.tar", tars.header("x", size, kind=b"x"), bytes(size), tars.header("1.jpg", 0)
    )
    tars.refused(DataError, r"a.tar: extended header of 1,048,577 bytes", path)
    names = [part for _ in range(2000) for part in (tars.header("L", 9, kind=b"L"), b"last.jpg\0")]
    assert tars.listed(tars.raw(tmp_path / "b.tar", *names, tars.header("x", 1), b"1")) == [
        ("last.jpg", 1)
    ]


def test_cut_short_anywhere(tmp_path):
    whole = pathlib.Path(tars.write(tmp_path / "whole.tar", tars.pairs(2))).read_bytes()
    end = len(tars.block_of(whole.rstrip(b"\0")))
    path = tmp_path / "a.tar"
    for length in [*range(0, end + 1, 173), 512, 1024, end]:
        path.write_bytes(whole[:length])
        message = tars.refused(DataError, f"tar shard {path}: .*cut short", str(path))
        assert "copy or write it again" in message
    path.write_bytes(whole[: end + 512])  # one block of zeros is an end as well
    assert len(open_tars(str(path))) == 2


def test_what_follows_the_end_marker(tmp_path):
    one = pathlib.Path(tars.write(tmp_path / "one.tar", tars.pairs(2))).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(one + one)
    tars.refused(DataError, "several tars joined", str(path))
    path.write_bytes(one + bytes(tar_index.MAX_PADDING + 1))  # a copy whose tail never arrived
    tars.refused(DataError, "or damaged", str(path))
    path.write_bytes(one + bytes(100_000))
    assert len(open_tars(str(path))) == 2


def test_not_a_tar(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"<!DOCTYPE html>" + b"x" * 2000)
    tars.refused(DataError, f"tar shard {path}: not a tar file; copy", str(path))
    for compression in ("gz", "bz2", "xz"):
        with tarfile.open(path, f"w:{compression}") as file:
            file.addfile(tars.entry("a.jpg", b"1" * 3000)[0], io.BytesIO(b"1" * 3000))
        tars.refused(DataError, "a.tar: compressed, so .* uncompress it", str(path))
    path.unlink()
    os.mkfifo(path)
    tars.refused(DataError, "a.tar: .*not a file", str(path))


def test_flipped_headers_give_one_error_or_the_same_data(tmp_path):
    good = tars.write(tmp_path / "good.tar", tars.pairs(4))
    whole = pathlib.Path(good).read_bytes()
    expected = open_tars(good)
    starts = [offset - 512 for _, offset, _ in tar_index.members(shard_files.OpenFile(good))]
    rng = np.random.default_rng(0)
    path = tmp_path / "a.tar"
    refusals = 0
    for trial in range(200):
        data = bytearray(whole)
        data[rng.choice(starts) + rng.integers(512)] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            source = open_tars(str(path), files=ShardFiles(str(tmp_path / "cache")))
        except DataError as error:
            refusals += 1
            assert str(path) in str(error) and "\n" not in str(error), trial
            continue
        assert [source[i]["image"] for i in range(4)] == [expected[i]["image"] for i in range(4)]
    assert refusals > 190  # the rest changes how the sum is written, not what it is


def test_headers_with_right_sums_and_wild_fields(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "a.tar"
    for _ in range(300):
        parts = []
        for _ in range(4):
            kind = rng.choice(list(b"0123456LKxgXSV\0M")).tobytes()[:1]
            number = rng.choice([b"%011o\0" % rng.integers(3000), rng.bytes(12)])
            parts += [tars.header("x.jpg", 0, kind=kind, number=bytes(number).ljust(12, b"\0"))]
            parts += [rng.choice([tars.pax(path=b"a.jpg"), rng.bytes(600)])]
        tars.raw(path, *map(bytes, parts))
        try:
            assert all(size >= -1 for _, size in listed_raw(path))
        except DataError as error:
            assert "\n" not in str(error)


def listed_raw(path):
    return [(name, size) for name, _, size in tar_index.members(shard_files.OpenFile(str(path)))]
