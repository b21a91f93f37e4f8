"""Which folders nobody but this user may change."""

import os
import stat

import pytest

from clipjax.common import files, private
from clipjax.common.exits import ConfigError
from clipjax.data.sources.shard_files import ShardFiles


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777, 0o722])
def test_others_may_not_write(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"^--x={tmp_path}: others may write it; chmod go-w it"):
        private.check(str(tmp_path), setting="--x")


@pytest.mark.parametrize(("mode", "refused"), [(0o775, False), (0o2770, False), (0o777, True)])
def test_colleagues_may_write_what_is_shared_and_nobody_else(tmp_path, mode, refused, monkeypatch):
    tmp_path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)  # the folder is another user's, too
    if not refused:
        private.check(str(tmp_path), setting="--x", shared=True)
        return
    with pytest.raises(ConfigError, match="others may write it"):
        private.check(str(tmp_path), setting="--x", shared=True)


def test_what_only_we_may_write_what_is_missing_and_what_is_remote_is_fine(tmp_path):
    for mode in (0o700, 0o755):
        tmp_path.chmod(mode)
        private.check(str(tmp_path), setting="--x")
    private.check(str(tmp_path / "none"), setting="--x")
    private.check("gs://bucket/run", setting="--x")


def test_others_may_not_own_it(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(tmp_path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(ConfigError, match=rf"^--x={tmp_path}: belongs to user \d+ and not to"):
        private.check(str(tmp_path), setting="--x")


@pytest.mark.parametrize("inner", ["", "index", "shards"])
def test_a_cache_is_refused_for_any_of_its_folders(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    (tmp_path / inner).chmod(0o777)
    with pytest.raises(ConfigError, match=r"^config.data.cache_dir=.*: others may write it"):
        ShardFiles(str(tmp_path))


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_folders_are_made_for_this_user_alone(tmp_path, mode):
    umask = os.umask(0)
    try:
        for _ in range(2):
            files.make_folder(tmp_path / "a" / "b", mode=mode)
    finally:
        os.umask(umask)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
