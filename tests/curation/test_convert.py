"""Conversion: the same records, smaller images, resumable, read back by the tfds source."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from clipjax.common.exits import ConfigError, DataError
from clipjax.curation import convert
from clipjax.data.sources.tar import open_tars
from clipjax.data.sources.tfds import TfdsSource
from tests.data import fakes, tars

OPTIONS = {"side": 16, "quality": 90, "shard_records": 4, "num_workers": 0, "show": False}


def make(tmp_path, **options):
    entries = [e for e in tars.pairs(10) if not e[0].startswith("000000003.jpg")]
    png = fakes.encode(fakes.photo(3, width=90, height=30).convert("RGBA"), "PNG")
    small = fakes.encode(fakes.photo(9, width=16, height=12))
    entries += [("000000003.png", png)]
    entries[-4] = ("000000009.jpg", small)
    entries[3 * 5 - 1] = (entries[3 * 5 - 1][0], b"no image")
    return open_tars(tars.write(tmp_path / "in" / "a.tar", entries), **options), png, small


def test_records_come_back(tmp_path):
    source, png, small = make(tmp_path)
    folder = tmp_path / "out"
    found = convert.convert(source, folder=str(folder), **OPTIONS)
    assert found == {"written": 9, "left out": {"not a JPEG, PNG or WebP image": 1}}
    back = TfdsSource(data_dir=folder)
    assert len(back) == 9
    records = {r["text"][0]: r["image"] for r in map(back.__getitem__, range(9))}
    assert sorted(records) == [f"text {i}" for i in range(10) if i != 5]
    for data in records.values():
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG" and min(image.size) <= 16
    assert records["text 9"] == small  # small JPEGs stay as they are
    assert Image.open(io.BytesIO(records["text 3"])).size == (48, 16)
    shown = np.asarray(Image.open(io.BytesIO(records["text 3"])), dtype=int)
    wanted = Image.open(io.BytesIO(png)).convert("RGB").resize((48, 16), Image.Resampling.BICUBIC)
    assert np.abs(shown - np.asarray(wanted)).mean() < 4


def test_it_goes_on_where_it_was(tmp_path, monkeypatch):
    source, _, _ = make(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    convert.convert(source, folder=str(whole), **OPTIONS)
    write = convert.write_shard

    def stop_at_the_second(number, **options):
        if number == 1:
            raise KeyboardInterrupt
        write(number, **options)

    monkeypatch.setattr(convert, "write_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(source, folder=str(parts), **OPTIONS)
    before = {p.name: os.stat(p).st_mtime_ns for p in parts.glob("*array_record*")}
    monkeypatch.setattr(convert, "write_shard", write)
    found = convert.convert(source, folder=str(parts), **OPTIONS)
    assert found["written"] == 9
    for name, moment in before.items():
        assert os.stat(parts / name).st_mtime_ns == moment
    a, b = TfdsSource(data_dir=whole), TfdsSource(data_dir=parts)
    assert [a[i] for i in range(9)] == [b[i] for i in range(9)]


def test_processes_write_the_same(tmp_path):
    source, _, _ = make(tmp_path)
    for workers in (0, 2):
        folder = str(tmp_path / str(workers))
        convert.convert(source, folder=folder, **{**OPTIONS, "num_workers": workers})
    a, b = (TfdsSource(data_dir=tmp_path / name) for name in ("0", "2"))
    assert [a[i] for i in range(9)] == [b[i] for i in range(9)]


def test_fields_are_kept(tmp_path):
    source, _, _ = make(tmp_path, text_key="caption,txt")
    convert.convert(source, folder=str(tmp_path / "out"), **OPTIONS)
    back = TfdsSource(data_dir=tmp_path / "out", text_key="caption,txt")
    assert back.caption(0) == {"caption": ["caption 0"], "txt": ["text 0"]}


def test_refusals(tmp_path):
    source, _, _ = make(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        convert.convert(source, folder=str(tmp_path / "full"), **OPTIONS)
    convert.convert(source, folder=str(tmp_path / "out"), **OPTIONS)
    with pytest.raises(ConfigError, match="another side"):
        convert.convert(source, folder=str(tmp_path / "out"), **{**OPTIONS, "side": 20})
    broken = fakes.FakeSource(length=3, broken=(0, 1, 2))
    with pytest.raises(DataError, match="no record could be converted"):
        convert.convert(broken, folder=str(tmp_path / "none"), **OPTIONS)
