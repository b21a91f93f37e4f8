"""Copies: exact, re-encoded, resized; evaluation sets; no other pictures."""

import numpy as np
import pytest
from PIL import Image

from clipjax.curation import dedup
from clipjax.data.sources.folder import Folder
from clipjax.data.sources.selection import Selected
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars


def picture(index, *, width=160, height=120):
    """Large shapes, as photographs have them, another for each index."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def changed(image, how):
    if how == "quality":
        return fakes.encode(image, quality=40)
    if how == "small":
        return fakes.encode(image.resize((80, 60)), quality=90)
    return fakes.encode(image, "PNG")


def pool(tmp_path, images):
    entries = []
    for index, data in enumerate(images):
        ending = "png" if data[:4] == b"\x89PNG" else "jpg"
        entries += [(f"{index:05d}.{ending}", data), (f"{index:05d}.txt", b"text")]
    return open_tars(tars.write(tmp_path / "pool" / "a.tar", entries))


def run(source, tmp_path, *, distance=4, against=None, num_workers=0, name="a"):
    path = str(tmp_path / f"{name}.keep")
    found = dedup.dedup(
        source,
        against=against or {},
        path=path,
        distance=distance,
        num_workers=num_workers,
        show=False,
    )
    selected = Selected(source, path=path)
    return found, [selected.place(i) for i in range(len(selected))]


def test_copies_and_nothing_else(tmp_path):
    images = [fakes.encode(picture(i), quality=90) for i in range(60)]
    copies = [
        changed(picture(i), how) for i in range(0, 12, 3) for how in ("quality", "small", "png")
    ]
    source = pool(tmp_path, [*images, *copies, images[5], b"no image", b"no image"])
    found, kept = run(source, tmp_path)
    assert kept == list(range(60))
    assert (found["duplicates"], found["unusable"]) == (13, 2)
    assert ("a.tar/00072", "copy of a.tar/00005") in found["examples"]
    again, same = run(source, tmp_path, num_workers=2, name="b")
    assert same == kept and again == found


def test_evaluation_sets(tmp_path):
    (tmp_path / "eval").mkdir()
    for index in (3, 8, 100):
        (tmp_path / "eval" / f"{index}.jpg").write_bytes(changed(picture(index), "small"))
    source = pool(tmp_path, [fakes.encode(picture(i), quality=90) for i in range(20)])
    found, kept = run(source, tmp_path, against={"mine": Folder(str(tmp_path / "eval"))})
    assert kept == [i for i in range(20) if i not in (3, 8)]
    assert found["in"] == {"mine": 2}
    assert ("a.tar/00003", "in mine: 3.jpg") in found["examples"]
    assert "in mine: 2" in dedup.describe(found)


def test_captions_that_go_with_a_copy_are_counted(tmp_path):
    image, other = (fakes.encode(picture(i), quality=90) for i in (1, 2))
    texts = ["a dog", "a dog", "one dog ", "a hound", "a cat"]
    entries = []
    for index, text in enumerate(texts):
        data = other if text == "a cat" else image
        entries += [(f"{index}.jpg", data), (f"{index}.txt", text.encode())]
    source = open_tars(tars.write(tmp_path / "a.tar", entries))
    found, kept = run(source, tmp_path)
    assert kept == [0, 4]
    assert (found["duplicates"], found["other captions"]) == (3, 2)
    assert "3, 2 of them with captions that the first copy has not" in dedup.describe(found)
    found, _ = run(pool(tmp_path, [image, image]), tmp_path, name="same")
    assert (found["duplicates"], found["other captions"]) == (1, 0)
    assert "captions" not in dedup.describe(found)


def test_flat_pictures_are_compared_by_their_bytes(tmp_path):
    white = [fakes.encode(Image.new("RGB", (60 + i, 50), (250, 250, 250))) for i in range(3)]
    found, kept = run(pool(tmp_path, [*white, white[0]]), tmp_path, distance=7)
    assert kept == [0, 1, 2] and found["duplicates"] == 1


@pytest.mark.parametrize("distance", [0, 1, 3, 7])
def test_no_near_pair_is_missed(distance, monkeypatch):
    monkeypatch.setattr(dedup, "PAIRS", 100)
    rng = np.random.default_rng(distance)
    left = rng.integers(0, 2**63, 60, dtype=np.uint64)
    flips = [
        np.uint64(sum(1 << int(b) for b in rng.choice(64, n, replace=False))) for n in range(10)
    ]
    right = np.concatenate([[value ^ flip for flip in flips] for value in left[:20]])
    found = set()
    for a, b in dedup.near_pairs(left, right, distance=distance):
        found |= set(zip(a.tolist(), b.tolist(), strict=True))
    apart = np.bitwise_count(left[:, None] ^ right[None])
    assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(apart <= distance)), strict=True))


def test_the_hash_is_of_what_is_seen():
    values = [dedup.perceptual_hash(fakes.encode(picture(i), quality=90)) for i in range(200)]
    apart = [(a ^ b).bit_count() for i, a in enumerate(values) for b in values[:i]]
    assert min(apart) > 8 and 24 < np.mean(apart) < 40
    again = dedup.perceptual_hash(changed(picture(0), "quality"))
    assert (again ^ values[0]).bit_count() <= 4
