"""Parquet with embedded images: columns, row groups, memory, damage."""

import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.sources import parquet as parquet_source
from clipjax.data.sources.parquet import open_parquet
from tests.data import fakes

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def write(path, count, *, start=0, group=3, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = range(start, start + count)
    made = {
        "jpg": [picture(i) for i in rows],
        "caption": [f"text {i}" for i in rows],
        "alt": [f"alt {i}" if i % 2 else None for i in rows],
    }
    parquet.write_table(pa.table({**made, **columns}), path, row_group_size=group)
    return str(path)


def test_records_across_files_and_groups(tmp_path):
    for shard in range(2):
        write(tmp_path / "set" / f"{shard}.parquet", 8, start=8 * shard)
    source = open_parquet(tmp_path / "set")
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert (len(source), source.lengths) == (16, [8, 8])
    for index in np.random.default_rng(0).permutation(16):
        expected = {
            "image": picture(index),
            "text": f"text {index}",
            "key": f"{index // 8}.parquet/{index % 8}",
        }
        assert source[index] == again[index] == expected
        assert source.caption(index) == f"text {index}"
    both = open_parquet(tmp_path / "set", text_key="alt,caption")
    assert both.caption(2) == {"alt": "", "caption": "text 2"}


def test_hugging_face_images(tmp_path):
    images = [{"bytes": picture(i), "path": None} for i in range(3)]
    texts = [["a", "b"], [], ["c"]]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": images, "text": texts, "label": [1, 2, 3]}), path)
    source = open_parquet(path)
    assert source[0]["image"] == picture(0) and source[0]["text"] == ["a", "b"]
    with pytest.raises(ValueError, match=r"a.parquet/0: no image bytes"):
        open_parquet(path, image_key="label")[0]


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_source, "GROUP_BYTES", 10_000)
    source = open_parquet(write(tmp_path / "a.parquet", 90, group=3))
    for index in range(90):
        file, _, _ = source.locate(index)
        assert source[index]["text"] == f"text {index}"
        kept = file._kept
        assert len(kept) == 1 or sum(t.nbytes for t in kept.values()) <= 10_000


def test_refusals(tmp_path):
    path = write(tmp_path / "a.parquet", 2)
    with pytest.raises(DataError, match=r"keys seen: jpg, caption, alt; set config.data.image_key"):
        open_parquet(path, image_key="png")
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match=r"Parquet file .*b.parquet: "):
        open_parquet(tmp_path / "b.parquet")
