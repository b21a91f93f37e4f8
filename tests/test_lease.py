"""Lock and note of a run: a live owner keeps others out, a dead one does not for long."""

import contextlib
import errno
import fcntl
import json
import resource
import time
import types

import pytest
from etils import epath

from clipjax.common.exits import BAD_CONFIG, ConfigError, DataError
from clipjax.run import lease


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "STALE_SECONDS", 20.0)


@pytest.fixture
def file(tmp_path):
    return epath.Path(tmp_path) / lease.FILE


@pytest.fixture
def naps(monkeypatch):
    """The seconds that were slept; nobody sleeps, the clock goes on all the same."""
    slept = []
    clock = types.SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept), time=time.time)
    monkeypatch.setattr(lease, "time", clock)
    return slept


def take(file):
    with lease._renewed(file):
        return json.loads(file.read_text())


def test_a_free_folder_is_taken_at_once_and_left_free(file, naps):
    take(file)
    assert not naps
    assert not file.exists()


def test_a_live_owner_keeps_others_out(file):
    with (
        lease._renewed(file),
        pytest.raises(ConfigError, match=r"process .* is training there"),
        lease._renewed(file),
    ):
        raise AssertionError("two owners")


def test_a_dead_owner_is_waited_for_whoever_it_was(file, caplog, naps):
    """Its process number may be anybody's by now, and its clock may be wrong: both do not count."""
    file.write_text(json.dumps({**lease._note(), "time": time.time() + 1e6}))
    take(file)
    assert sum(naps) >= lease.STALE_SECONDS
    assert "did not sign off" in caplog.text


def test_an_owner_that_signs_off_is_waited_for_no_longer(file, naps, monkeypatch):
    file.write_text(json.dumps(lease._note()))

    def sign_off(seconds):
        file.unlink(missing_ok=True)
        naps.append(seconds)

    monkeypatch.setattr(lease.time, "sleep", sign_off)
    take(file)
    assert len(naps) == 1


def test_an_owner_that_slept_too_long_leaves(file, monkeypatch):
    left = []
    monkeypatch.setattr(lease.shutdown, "leave", lambda *told: left.append(told))
    with lease._renewed(file):
        file.write_text(json.dumps({"host": "other", "pid": 7, "name": "x"}))
        deadline = time.monotonic() + 60
        while not left and time.monotonic() < deadline:
            time.sleep(0.02)
    code, told = left[0]
    assert code == BAD_CONFIG and "process 7 on other is training there" in told


def test_the_note_is_not_taken_away_from_its_new_owner(file, monkeypatch):
    monkeypatch.setattr(lease.shutdown, "leave", lambda *told: None)
    with lease._renewed(file):
        pass
    with contextlib.ExitStack() as stack:
        stack.enter_context(lease._renewed(file))
        file.write_text(json.dumps({"name": "x"}))
        stack.close()
    assert json.loads(file.read_text())["name"] in ("x",)


NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system without locks."""

    def refuse(*arguments):
        raise OSError(request.param, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_the_note_keeps_others_out(file, no_locks, caplog, request):
    workdir = str(file.parent)
    with lease.hold(workdir):
        assert "has no locks (no locks): a second program is" in caplog.text
        with pytest.raises(ConfigError, match=r"is training there"), lease.hold(workdir):
            raise AssertionError("two owners")
    naps = request.getfixturevalue("naps")
    with lease.hold(workdir):
        assert not naps


def test_without_locks_a_dead_owner_is_waited_for(file, no_locks, naps):
    file.write_text(json.dumps(lease._note()))
    with lease.hold(str(file.parent)):
        assert sum(naps) >= lease.STALE_SECONDS


def test_a_lock_may_be_one_machines_own_so_a_bad_end_elsewhere_is_told(file, caplog):
    workdir = str(file.parent)
    with lease.hold(workdir):
        assert json.loads(file.read_text())["pid"]
        with pytest.raises(ConfigError, match=r"is training there"), lease.hold(workdir):
            raise AssertionError("two owners")
    file.write_text(json.dumps(lease._note()))
    with lease.hold(workdir):
        assert "did not sign off" not in caplog.text  # here the lock tells
    assert not file.read_text(), "signed off"
    file.write_text(json.dumps({"host": "other", "pid": 7}))
    with lease.hold(workdir):
        assert "process 7 on other did not sign off; make sure that it has ended" in caplog.text


def test_a_note_that_does_not_fit_on_the_disk_is_no_error(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            lease.hold(str(tmp_path)),
            pytest.raises(ConfigError, match="is training there"),
            lease.hold(str(tmp_path)),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be written: "),
        lease.hold(str(tmp_path / "file" / "run")),
    ):
        raise AssertionError


def test_an_end_by_an_error_signs_off_too(file):
    with pytest.raises(DataError), lease.hold(str(file.parent)):
        raise DataError("data: no good")
    assert not file.read_text()


def test_without_locks_an_emptied_note_is_nobodys(file, no_locks, naps):
    """What a program leaves that had locks, or one that was killed as it began."""
    file.write_text("")
    with lease.hold(str(file.parent)):
        assert len(naps) == 1


def test_what_is_no_note_is_somebodys(file, no_locks, naps, caplog):
    file.write_text("null")
    with lease.hold(str(file.parent)):
        assert "process ? on ? did not sign off" in caplog.text
