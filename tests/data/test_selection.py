"""Some records of a source by a file of bits."""

import pickle

import numpy as np
import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common.exits import ConfigError, DataError
from clipjax.data.sources.selection import Selected, SelectionWriter
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars


def write(path, keep, source, *, chunk=64):
    writer = SelectionWriter(str(path), length=len(source), fingerprint=source.fingerprint)
    for first in range(0, len(keep), chunk):
        writer.write(first, keep[first : first + chunk])
    assert not path.exists()  # until it is whole
    writer.close()
    return str(path)


@pytest.mark.parametrize("length", [1, 8, 100, 4096, 20_001])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_places_and_ranks(tmp_path, length, share):
    source = fakes.FakeSource(length=length)
    keep = np.random.default_rng(length).random(length) < share
    keep[length // 2] = True
    selected = Selected(source, path=write(tmp_path / "a.keep", keep, source))
    kept = np.flatnonzero(keep)
    assert len(selected) == len(kept)
    for index in np.random.default_rng(1).integers(len(kept), size=50):
        assert selected.place(int(index)) == kept[index]
    for place in np.random.default_rng(2).integers(length + 1, size=50):
        assert selected.rank(int(place)) == keep[:place].sum()
    for index in (-1, len(kept)):
        with pytest.raises(IndexError):
            selected.place(index)


def test_records_and_shards(tmp_path):
    for shard in range(3):
        tars.write(tmp_path / "set" / f"{shard}.tar", tars.pairs(10, start=10 * shard))
    source = open_tars(tmp_path / "set")
    keep = np.zeros(30, bool)
    keep[[0, 3, 9, 10, 29]] = True
    path = write(tmp_path / "a.keep", keep, source)
    made = build_data.source(
        config.records(source="tar", path=str(tmp_path / "set"), keep=path), image_size=16, seed=0
    )
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes)
    assert made.shards.lengths == again.shards.lengths == [3, 1, 1]
    assert [again[i]["text"] for i in range(5)] == [f"text {n}" for n in (0, 3, 9, 10, 29)]
    assert made.caption(4) == "text 29" and made.key(1) == source.key(3)
    assert made.fingerprint != source.fingerprint
    keep[1] = True
    other = Selected(source, path=write(tmp_path / "b.keep", keep, source))
    assert other.fingerprint != made.fingerprint


def test_refusals(tmp_path):
    source = fakes.FakeSource(length=20)
    path = write(tmp_path / "a.keep", np.ones(20, bool), source)
    with pytest.raises(DataError, match="made for another source"):
        Selected(fakes.FakeSource(length=21), path=path)
    with pytest.raises(DataError, match="made for another source"):
        Selected(fakes.FakeSource(length=20, fingerprint="fake-2"), path=path)
    with pytest.raises(DataError, match="keeps none"):
        Selected(source, path=write(tmp_path / "b.keep", np.zeros(20, bool), source))
    (tmp_path / "c.keep").write_bytes((tmp_path / "a.keep").read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        Selected(source, path=str(tmp_path / "c.keep"))
    with pytest.raises(ConfigError, match="cannot read"):
        Selected(source, path=str(tmp_path / "none.keep"))
    with pytest.raises(ConfigError, match="must end in"):
        SelectionWriter(str(tmp_path / "a.bin"), length=3, fingerprint="")
