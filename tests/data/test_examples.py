"""One training example per position: pure, reproducible, and never missing."""

import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import examples, images
from tests.data import fakes


def stream(source, *, seed=3, size=16, context_length=16):
    tokenizer = fakes.FakeTokenizer(context_length)
    return examples.TrainExamples(source, tokenizer=tokenizer, image_size=size, seed=seed)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_an_example_has_the_promised_fields():
    row = stream(fakes.FakeSource())[7]
    assert row["image"].shape == (16, 16, 3) and row["image"].dtype == np.uint8
    assert row["text"].shape == (16,) and row["text"].dtype == np.int32
    assert isinstance(row["record_id"], np.uint32)
    assert (row["position"], row["source"], row["bad"], row["bad_key"]) == (7, "fake", "", "")
    assert row["key"].startswith("record-") and row["truncated"] is True


def test_content_ids_tell_equal_images_and_equal_captions():
    class Twins(fakes.FakeSource):
        def __getitem__(self, index):
            record = dict(super().__getitem__(index))
            if index in (2, 3):
                record |= {"image": super().__getitem__(0)["image"], "text": "the same words"}
            return record

    rows = examples.TrainExamples(
        Twins(length=6),
        tokenizer=fakes.FakeTokenizer(16),
        image_size=16,
        seed=3,
        content_ids=True,
    )
    found = {row["key"][-1]: row for row in map(rows.__getitem__, range(6))}
    images_, texts = ([found[str(i)][name] for i in range(6)] for name in ("image_id", "text_id"))
    assert images_[0] == images_[2] == images_[3] and len(set(images_)) == 4
    assert texts[2] == texts[3] and len(set(texts)) == 5
    assert isinstance(images_[0], np.uint32)


def test_examples_are_a_pure_function_of_seed_and_position():
    source = fakes.FakeSource(captions_each=3)
    forward, backward = stream(source), stream(source)
    pairs = zip(
        [forward[p] for p in range(60)],
        reversed([backward[p] for p in reversed(range(60))]),
        strict=True,
    )
    assert all(same(a, b) for a, b in pairs)
    assert not same(stream(source, seed=4)[0], forward[0])
    copy = pickle.loads(pickle.dumps(forward))  # noqa: S301 (our own bytes)
    assert same(copy[5], forward[5])


def test_an_epoch_sees_each_record_once_with_new_randomness_each_time():
    examples_ = stream(fakes.FakeSource(length=30, captions_each=4), context_length=80)
    epochs = [
        {row["key"]: row for row in map(examples_.__getitem__, range(e, e + 30))} for e in (0, 30)
    ]
    assert len(epochs[0]) == len(epochs[1]) == 30
    assert [*epochs[0]] != [*epochs[1]]
    crops = [np.array_equal(epochs[0][k]["image"], epochs[1][k]["image"]) for k in epochs[0]]
    texts = [np.array_equal(epochs[0][k]["text"], epochs[1][k]["text"]) for k in epochs[0]]
    assert np.mean(crops) < 0.6 and np.mean(texts) < 0.6


def test_record_ids_name_source_and_key():
    ids = {int(examples.record_id("fake", key=str(i))) for i in range(2000)}
    assert len(ids) == 2000
    assert examples.record_id("a", key="b") != examples.record_id("b", key="a")
    row = stream(fakes.FakeSource())[0]
    assert row["record_id"] == examples.record_id("fake", key=row["key"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"broken": (3, 11)}, "damaged image"),
        ({"unreadable": (3, 11)}, "unreadable record"),
        ({"uncaptioned": (3, 11)}, "empty caption"),
    ],
)
def test_bad_records_are_replaced_in_place(damage, reason):
    good = [stream(fakes.FakeSource())[p] for p in range(40)]
    examples_ = stream(fakes.FakeSource(**damage))
    rows = [examples_[p] for p in range(40)]
    bad = [p for p in range(40) if good[p]["key"] in ("record-3", "record-11")]
    assert len(bad) == 2
    for position, row in enumerate(rows):
        if position in bad:
            assert row["bad"] == reason
            assert row["bad_key"] in (
                good[position]["key"],
                good[position]["key"].replace("record-", "index "),
            )
            assert row["key"] not in ("record-3", "record-11")
            assert row["record_id"] == examples.record_id("fake", key=row["key"])
        else:
            assert same(row, good[position])  # the others do not notice
    again = stream(fakes.FakeSource(**damage))
    assert all(same(again[p], rows[p]) for p in bad)


def test_substitutes_differ_from_place_to_place():
    source = fakes.FakeSource(length=400, broken=tuple(range(0, 400, 2)))
    rows = [stream(source)[p] for p in range(400)]
    replaced = [row["key"] for row in rows if row["bad"]]
    assert len(replaced) == 200
    assert len(set(replaced)) > 100  # 126 expected of 200 draws from 200


def test_when_nothing_is_usable_the_data_are_named():
    source = fakes.FakeSource(length=6, broken=tuple(range(6)))
    with pytest.raises(DataError, match=r"source fake .*record-\d \(damaged image\)") as caught:
        stream(source)[0]
    assert "\n" not in str(caught.value)


def test_no_records_at_all():
    with pytest.raises(DataError, match="fake has 0 records"):
        stream(fakes.FakeSource(length=0))


def test_a_mistake_in_the_program_is_not_a_bad_record():
    class Wrong(fakes.FakeSource):
        def __getitem__(self, index):
            return {"picture": b"", "key": "x"}

    with pytest.raises(KeyError):
        stream(Wrong())[0]


def test_the_crop_comes_from_the_position_alone():
    source = fakes.FakeSource()
    row = stream(source, seed=9)[13]
    index = int(row["key"].removeprefix("record-"))
    rng = examples.generator(9, position=13)
    expected = images.decode_train(source[index]["image"], size=16, rng=rng)
    np.testing.assert_array_equal(row["image"], expected)
