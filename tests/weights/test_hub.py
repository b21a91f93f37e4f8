"""hf:// addresses, on a cache folder that lies here already: there is no hub in tests."""

import errno
import os
import shutil

import pytest

from clipjax import convert
from clipjax.build import pretrained
from clipjax.common.exits import ConfigError, RemoteError, WriteError
from clipjax.weights import hub
from tests.weights import small

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache with one model, org/name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = small.model()
    folder = tmp_path / "hub" / "models--org--name"
    made = tmp_path / "made"
    small.write(made, model, to="huggingface")
    (folder / "refs").mkdir(parents=True)
    for name in ("main", "v1"):
        (folder / "refs" / name).write_text(COMMIT)
    shutil.move(made, folder / "snapshots" / COMMIT)
    return small.params(model)


@pytest.mark.parametrize(
    "address", ["hf://org/name", "hf://org/name@v1", f"hf://org/name@{COMMIT}"]
)
def test_a_model_of_the_hub(address, cache, tmp_path):
    small.assert_equal(pretrained.read_variables(address)["params"], cache)
    if address.endswith("v1"):
        convert.convert(address, to="open_clip", output=str(tmp_path / "out"))
        small.assert_equal(pretrained.read_variables(tmp_path / "out")["params"], cache)


def test_what_is_not_there_is_one_line(cache):
    for address in ("hf://org/other", "hf://org/name@v2"):
        with pytest.raises((ConfigError, RemoteError), match=address) as caught:
            pretrained.read_variables(address)
        assert "\n" not in str(caught.value)
    for address in ("hf://name", "hf://org/name/more", "hf://../../etc@x", "hf://org/name@a b"):
        with pytest.raises(ConfigError, match="write hf://org/name"):
            pretrained.read_variables(address)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, WriteError), (errno.EROFS, ConfigError), (13, ConfigError)]
)
def test_a_cache_that_cannot_be_written_is_no_fault_of_the_hub(monkeypatch, number, kind):
    import huggingface_hub

    def refused(*arguments, **settings):
        raise OSError(number, os.strerror(number), "/cache/blobs/x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(kind, match=f"^/cache/blobs/x: cannot be written: {os.strerror(number)}"):
        hub.fetch("hf://org/name")
