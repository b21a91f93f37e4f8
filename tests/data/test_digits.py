"""Handwritten digits and folders of images as sources; the objects of another designer."""

import collections
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import sources
from clipjax.data.sources.digits import CAPTIONS, NAMES, Digits
from clipjax.data.sources.folder import Folder
from clipjax.data.sources.noto import NotoObjects
from clipjax.data.sources.scenes import Objects


def pixels(record):
    return np.asarray(Image.open(io.BytesIO(record["image"]))).astype(int)


def test_every_fifth_of_each_digit_is_held_out():
    train, test = Digits(), Digits(split="test")
    assert (len(train), len(test)) == (1433, 364)
    keys = [[source[i]["key"] for i in range(len(source))] for source in (train, test)]
    assert not set(keys[0]) & set(keys[1]) and len(set(keys[0] + keys[1])) == 1797
    counts = collections.Counter(test.label(i) for i in range(len(test)))
    assert set(counts) == set(test.labels) and set(counts.values()) <= {35, 36, 37}


def test_a_digit_is_a_picture_with_its_label_and_captions():
    from sklearn.datasets import load_digits

    loaded = load_digits()
    for source in (Digits(), Digits(split="test")):
        for i in range(0, len(source), 50):
            record, place = source[i], int(source[i]["key"])
            assert record["label"] == source.label(i) == str(loaded.target[place])
            assert record["text"] == source.caption(i) and len(record["text"]) == len(CAPTIONS)
            assert all(NAMES[loaded.target[place]] in text for text in record["text"])
            image = pixels(record)
            assert image.shape == (32, 38, 3)
            small = image[:, 3:-3, 0].reshape(8, 4, 8, 4).mean((1, 3)) / 255 * 16
            assert np.corrcoef(small.ravel(), loaded.images[place].ravel())[0, 1] > 0.9


def test_digits_keep_the_protocol():
    source = Digits(split="test")
    assert pickle.loads(pickle.dumps(source))[3] == source[3]  # noqa: S301 - our own bytes
    assert source.fingerprint != Digits().fingerprint and len(source.fingerprint) == 16
    for outside in (-1, 364):
        with pytest.raises(IndexError):
            source[outside]
    with pytest.raises(ConfigError, match="split of the digits"):
        Digits(split="validation")


@pytest.mark.parametrize(
    ("package", "source"), [("sklearn", "digits"), ("manimgx_fonts", "objects_noto")]
)
def test_a_missing_package_names_the_extra(monkeypatch, package, source):
    import importlib.util
    import sys

    from clipjax.data.sources import digits, noto

    digits._digits.cache_clear()
    noto._font.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "clipjax\[quickstart\]"') as error:
        sources.get(source)()
    assert "\n" not in str(error.value)


def test_noto_objects_are_the_same_scenes_in_black_outline():
    noto, colored = NotoObjects(image_size=96), Objects(image_size=96)
    assert noto.labels == colored.labels and noto.fingerprint != colored.fingerprint
    for i in range(0, 640, 16):
        ours, theirs = noto[i], colored[i]
        for same in ("text", "key", "label"):
            assert ours[same] == theirs[same]
        placed, _ = colored.describe(i)
        x, y, side = (round(96 * v) for v in (placed.x, placed.y, placed.side))
        outside = np.ones((96, 96), bool)
        outside[max(y - 3, 0) : y + side + 3, max(x - 3, 0) : x + side + 3] = False
        image = pixels(ours)
        background = np.median(pixels(theirs)[outside], axis=0)
        assert np.abs(image[outside] - background).max() < 40  # nothing but background
        inside = image[~outside]
        assert (inside.max(axis=1) < 90).mean() > 0.05, noto.label(i)  # black strokes
        # every pixel is a mixture of black and the background: no colour of its own
        share = np.clip((inside @ background) / (background @ background), 0, 1)
        assert np.abs(inside - share[:, None] * background).max() < 60, noto.label(i)


@pytest.fixture
def pets(tmp_path):
    for file in ("dog/b.png", "dog/a.JPG", "maine_coon/old/c.webp", "dog/readme.txt", "dog/.x.png"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            form = {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP"}[path.suffix]
            Image.new("RGB", (9, 7), "red").save(path, form)
    return tmp_path


def test_sub_folders_are_classes(pets):
    source = Folder(str(pets))
    assert source.files == ("dog/a.JPG", "dog/b.png", "maine_coon/old/c.webp")
    assert source.labels == ("dog", "maine_coon")
    assert [source[i]["label"] for i in range(3)] == ["dog", "dog", "maine_coon"]
    assert source.caption(2) == source[2]["text"] == "maine coon"
    assert source[0]["key"] == source.key(0) == "dog/a.JPG"
    assert pixels(source[2]).shape == (7, 9, 3)
    assert pickle.loads(pickle.dumps(source))[1] == source[1]  # noqa: S301 - our own bytes


def test_a_plain_folder_has_no_labels(pets):
    source = Folder(str(pets / "dog"))
    assert len(source) == 2 and source.caption(0) == "a" and "label" not in source[0]
    assert source.labels is None


def test_wrong_folders_are_named(pets):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        Folder("nowhere")
    (pets / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        Folder(str(pets / "empty"))
    Image.new("RGB", (9, 9)).save(pets / "loose.png")
    with pytest.raises(DataError, match=r"loose.png does not"):
        Folder(str(pets))
