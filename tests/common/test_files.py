"""What is written is whole or not there, and what cannot be written is one line with its code."""

import errno
import os
import tempfile

import numpy as np
import pytest
from etils import epath

from clipjax.common import exits, files
from clipjax.common.exits import CleanExit, ConfigError, WriteError
from tests import fake_gcs

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
STAYING = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ELOOP),
)


def raising(number):
    def call(*arguments, **settings):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [*PASSING, *STAYING], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["replace", "fsync", "makedirs"])
def test_each_error_has_its_code_and_line_and_the_old_file_stays(
    tmp_path, monkeypatch, number, call
):
    file = tmp_path / "a.txt"
    files.write(file, "old")
    monkeypatch.setattr(os, call, raising(number))
    with pytest.raises(CleanExit) as raised:
        files.write(file, "new")
    code = exits.BAD_CONFIG if number in STAYING else exits.CHECKPOINT_IO
    assert raised.value.code == code
    line = str(raised.value)
    assert line.startswith(f"{file}: cannot be written: {os.strerror(number)}") and "\n" not in line
    monkeypatch.undo()
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "name another place"),
        (errno.EACCES, "name another place"),
    ],
)
def test_the_line_says_what_to_do(number, advice):
    error = OSError(number, os.strerror(number))
    assert advice in str(files.failure(error, "x", setting="--output"))
    assert str(files.failure(error, "x", setting="--output")).startswith("--output=x: cannot be ")


def test_names_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file/x", "n" * 300, "file/x/y"):
        for write in (lambda name: files.write(name, ""), files.make_folder):
            with pytest.raises(ConfigError, match="cannot be written: "):
                write(tmp_path / name)
    with pytest.raises(ConfigError, match="Is a directory"):
        files.write(tmp_path, "")
    with pytest.raises(ConfigError, match="file: cannot be written: Not a directory"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written: "):
        files.open_file(tmp_path / "none" / "x", "ab")
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    files.write(os.devnull, "gone")


def test_a_file_written_piece_by_piece_appears_at_the_end(tmp_path):
    with files.writing(tmp_path / "deep" / "x") as file:
        file.write(b"one")
        assert not (tmp_path / "deep" / "x").exists()
        file.write(b" two")
    assert (tmp_path / "deep" / "x").read_bytes() == b"one two"
    with pytest.raises(KeyError), files.writing(tmp_path / "deep" / "y") as file:
        raise KeyError
    assert os.listdir(tmp_path / "deep") == ["x"]


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays(tmp_path, compressed):
    files.write_arrays(tmp_path / "a.npz", {"x": np.arange(3)}, compressed=compressed)
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_whole(tmp_path, there):
    target = tmp_path / "out" / "new"
    if there:
        target.mkdir(parents=True)
    with files.as_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not (target / "a").exists()
    assert (target / "a").read_text() == "a" and os.listdir(target.parent) == ["new"]
    with pytest.raises(WriteError, match=r"--x=.*cannot be written: Directory not empty"):  # noqa: SIM117
        with files.as_folder(target, setting="--x") as folder:
            (folder / "b").write_text("b")
    with pytest.raises(KeyError), files.as_folder(tmp_path / "out" / "other"):
        raise KeyError
    assert os.listdir(target) == ["a"] and os.listdir(target.parent) == ["new"]


def test_nowhere_for_temporary_files_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(ConfigError, match=r"TMPDIR.*cannot be made: No such file"):
        files.temporary_folder()


def test_what_is_removed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_text("")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "full" / "deep").mkdir(parents=True)
    for name in ("link", "full", "none"):
        files.remove(tmp_path / name)
    files.remove(tmp_path / "none" / "deeper")
    assert os.listdir(tmp_path) == ["kept"] and os.listdir(tmp_path / "kept") == ["x"]


def test_what_is_moved_takes_the_place_of_what_is_there(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    files.move(tmp_path / "a", tmp_path / "b")
    files.move(tmp_path / "b", tmp_path / "new" / "c")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("a")] == ["new/c/a"]
    assert os.listdir(tmp_path) == ["new"]
    with pytest.raises(ConfigError, match="No such file"):
        files.move(tmp_path / "none", tmp_path / "d")


def test_a_place_is_looked_at_before_the_work_and_left_as_it_was(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "new" / "x", setting="--output")
    assert os.listdir(tmp_path / "new") == []
    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", raising(errno.ENOSPC))
    with pytest.raises(WriteError, match=r"--output=.*/x: cannot be written: No space left"):
        files.check_writable(tmp_path / "new" / "x", setting="--output")


def test_a_disk_s_no_is_clean_wherever_it_was_and_other_errors_are_not():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        assert "here: cannot be written" in str(files.clean(OSError(number, "no", "here")))
    for error in (OSError(errno.EACCES, "no"), OSError("no"), ValueError("no")):
        assert files.clean(error) is None


def test_a_bucket_is_written_alike(monkeypatch, tmp_path):
    pytest.importorskip("gcsfs")
    with fake_gcs.serve() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        files.write("gs://bucket/a/x", "text")
        files.write_arrays("gs://bucket/a/y.npz", {"x": np.arange(2)})
        with files.writing("gs://bucket/a/z") as file:
            file.write(b"piece")
        assert bucket.objects["a/x"] == b"text" and bucket.objects["a/z"] == b"piece"
        files.remove("gs://bucket/a/x")
        files.remove("gs://bucket/a/none")
        files.move("gs://bucket/a", "gs://bucket/b")
        assert sorted(bucket.objects) == ["b/y.npz", "b/z"]
        files.remove("gs://bucket/b")
        assert not bucket.objects
