"""The kept index of a tar shard: made once, checked, and made again when it does not fit."""

import io
import os
import zipfile

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.sources import shard_files, tar_index
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar import open_tars
from tests.data import tars


@pytest.fixture
def builds(monkeypatch):
    """Paths of the shards whose headers were read."""
    made = []
    build = tar_index.build
    monkeypatch.setattr(tar_index, "build", lambda file: made.append(file.path) or build(file))
    return made


def test_the_index_is_made_once(tmp_path, builds):
    umask = os.umask(0)
    try:
        path = tars.write(tmp_path / "a.tar", tars.pairs(3))
        first = open_tars(path)
        cached = open_tars(path)
        open_tars(path, text_key="caption")  # other members, the same index
        kept = tmp_path / "a.tar.index.npz"
        folder = tmp_path / "new" / "cache"
        open_tars(path, files=ShardFiles(str(folder)))
        open_tars(path, files=ShardFiles(str(folder)))
    finally:
        os.umask(umask)
    assert builds == [path, path]
    assert cached[2] == first[2] and cached.skipped == first.skipped
    modes = [
        os.stat(p).st_mode & 0o777
        for p in (kept, *(folder / "index").iterdir(), folder, folder.parent)
    ]
    assert modes == [0o644, 0o644, 0o700, 0o700]
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", kept.name, "new"}
    with np.load(kept, allow_pickle=False) as arrays:
        assert set(arrays) == set(tar_index.COLUMNS)


def test_a_changed_shard_is_indexed_again(tmp_path, builds):
    path = tars.write(tmp_path / "a.tar", tars.pairs(3))
    open_tars(path)
    tars.write(path, tars.pairs(4))
    assert len(open_tars(path)) == 4
    os.utime(path, ns=(1, 1))
    assert len(open_tars(path)) == 4
    assert len(open_tars(path)) == 4
    assert len(builds) == 3


def test_another_place_where_the_first_cannot_be_written(tmp_path, builds, caplog, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tars.write(tmp_path / "a.tar", tars.pairs(2))
    os.mkdir(f"{path}.index.npz")  # as root may write everywhere, permissions would not do
    assert open_tars(path)[1] == open_tars(path)[1]
    assert len(builds) == 1
    assert len(list((tmp_path / "home" / ".cache" / "clipjax" / "index").iterdir())) == 1
    (tmp_path / "file").write_text("")
    source = open_tars(path, files=ShardFiles(str(tmp_path / "file")))
    assert len(source) == 2 and "cannot be kept" in caplog.text
    assert not list(tmp_path.glob(".index-*"))


def test_a_damaged_index_is_made_again(tmp_path, builds):
    path = tars.write(tmp_path / "a.tar", tars.pairs(5))
    expected = open_tars(path)
    kept = tmp_path / "a.tar.index.npz"
    whole = kept.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(150):
        data = bytearray(whole)
        if trial % 10:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            data = data[: rng.integers(len(data))]
        kept.write_bytes(data)
        source = open_tars(path)
        assert [source[i] for i in range(5)] == [expected[i] for i in range(5)]
        assert source.fingerprint == expected.fingerprint
    assert len(builds) > 100
    for content in (b"", b"PK\x05\x06" + bytes(18), b"x" * 100):
        kept.write_bytes(content)
        assert len(open_tars(path)) == 5


def test_an_index_that_others_could_write_is_not_trusted(tmp_path, builds):
    path = tars.write(tmp_path / "a.tar", tars.pairs(2))
    open_tars(path)
    kept = tmp_path / "a.tar.index.npz"
    for mode in (0o664, 0o646):
        kept.chmod(mode)
        open_tars(path)
        assert kept.stat().st_mode & 0o777 == 0o644  # written anew
    kept.rename(tmp_path / "moved")
    kept.symlink_to(tmp_path / "moved")
    open_tars(path)
    assert len(builds) == 4


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


def test_nothing_is_unpickled(tmp_path, monkeypatch, builds):
    monkeypatch.chdir(tmp_path)
    path = tars.write(tmp_path / "a.tar", tars.pairs(2))
    open_tars(path)
    kept = tmp_path / "a.tar.index.npz"
    with zipfile.ZipFile(kept, "w") as archive:
        for name in tar_index.COLUMNS:
            data = io.BytesIO()
            np.save(data, np.array([Canary()], dtype=object), allow_pickle=True)
            archive.writestr(f"{name}.npy", data.getvalue())
    assert len(open_tars(path)) == 2
    assert len(builds) == 2 and not os.path.exists("canary")


def test_many_extensions_and_samples_cost_little(tmp_path):
    parts = [tars.header(f"{i}.e{i}", 0) for i in range(2000)]
    path = tars.raw(
        tmp_path / "a.tar", *parts, tars.header("1.jpg", 1), b"x", tars.header("1.txt", 1), b"x"
    )
    index = tar_index.build(shard_files.OpenFile(path))
    assert len(index.extension_names) == tar_index.MAX_EXTENSIONS
    tars.refused(DataError, "0 of the first .* seen: e0, e1, ", path)


@pytest.mark.parametrize(
    ("bound", "value", "told"),
    [
        ("MAX_MEMBERS", 7, r"a.tar: more than 7 members; split it"),
        ("MAX_KEYS", 26, r"a.tar: the names of its samples are longer than 26 bytes; split it"),
    ],
)
def test_more_than_an_index_may_hold_is_refused(tmp_path, monkeypatch, bound, value, told):
    """Members that are no part of a sample count too, and a sample's name once."""
    path = tars.write(tmp_path / "a.tar", [*tars.pairs(2), ("no extension", b"")])
    tar_index.build(shard_files.OpenFile(path))
    monkeypatch.setattr(tar_index, bound, value)
    assert len(tar_index.build(shard_files.OpenFile(path)).key_ends) == 2
    path = tars.write(tmp_path / "a.tar", [*tars.pairs(3)])
    tars.refused(DataError, told, path)
