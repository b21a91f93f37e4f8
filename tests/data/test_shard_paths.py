"""From `config.data.path` to files: ranges, patterns, folders and lists."""

import os

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.sources import shard_paths
from clipjax.data.sources.tar import open_tars
from tests.data import tars


def test_braces():
    def expanded(pattern):
        return list(shard_paths.braces(pattern))

    assert expanded("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expanded("{8..10}") == ["8", "9", "10"]
    assert expanded("{2..0}") == ["2", "1", "0"]
    assert expanded("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expanded("x{0{0..1},7}") == ["x00", "x7", "x01", "x7"]
    assert expanded("{plain}{") == ["{plain}{"]


def test_paths(tmp_path, monkeypatch):
    for name in ("a/1.tar", "a/2.tar", "a/10.tar", "b/1.tar", "odd[1]/1.tar", "a/other.txt"):
        tars.write(tmp_path / name, tars.pairs(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def found(path):
        return [os.path.relpath(p, tmp_path) for p in shard_paths.expand(path, ending=".tar")]

    assert found("a") == found(f"{tmp_path}/a/*.tar") == ["a/1.tar", "a/10.tar", "a/2.tar"]
    assert found("~/a/{1..2}.tar") == ["a/1.tar", "a/2.tar"]
    assert found("*/1.tar") == ["a/1.tar", "b/1.tar", "odd[1]/1.tar"]
    assert found("b::odd[1]::a/2.tar") == ["b/1.tar", "odd[1]/1.tar", "a/2.tar"]
    assert found("{b,a}") == ["b/1.tar", "a/1.tar", "a/10.tar", "a/2.tar"]
    both = open_tars("a::b")
    assert [both.key(i) for i in (0, 3)] == ["a/1.tar/000000000", "b/1.tar/000000000"]
    assert both.name == tmp_path.name

    tars.refused(ConfigError, "config.data.path: not set", "")
    tars.refused(ConfigError, "nothing/x.tar matches no file .looked from", "nothing/x.tar")
    tars.refused(ConfigError, r"a/\*.zip matches no file", "a/*.zip")
    tars.refused(ConfigError, "a/1.tar::a names 1 files more than once", "a/1.tar::a")
    tars.refused(ConfigError, "names more than 1,000,000 files", "a/{0..99999999999}.tar")
    tars.refused(ConfigError, "https://x/a cannot be listed; name its files", "a::https://x/a?k=s")
    os.mkdir("empty")
    tars.refused(ConfigError, r"folder empty holds no \*.tar files", "empty")
    message = tars.refused(DataError, "2 of 4 shards of ", "a/{0..3}.tar")
    assert "missing, first a/0.tar" in message
