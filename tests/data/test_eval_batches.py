"""Evaluation batches: every record once, in order, padded alike on every host."""

import contextlib

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import eval_batches, images
from tests.data import fakes


@pytest.mark.parametrize("length", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_out_every_image_once(length, hosts):
    source = fakes.FakeSource(length=length)
    parts = [
        list(eval_batches.eval_image_batches(source, size=16, batch_size=8, rows=rows))
        for rows in np.split(np.arange(8), hosts)
    ]
    assert {len(part) for part in parts} == {-(-length // 8)}
    seen = {}
    for part in parts:
        for batch in part:
            assert batch["image"].shape == (8 // hosts, 16, 16, 3)
            assert batch["image"].dtype == np.uint8 and batch["image"].flags.c_contiguous
            assert batch["mask"].dtype == bool and batch["index"].dtype == np.int32
            assert (
                not batch["image"][~batch["mask"]].any()
                and not batch["index"][~batch["mask"]].any()
            )
            for row in np.flatnonzero(batch["mask"]):
                assert batch["index"][row] not in seen
                seen[batch["index"][row]] = batch["image"][row]
    assert sorted(seen) == list(range(length))
    for index, image in seen.items():
        expected = images.decode_eval(source[index]["image"], size=16)
        np.testing.assert_array_equal(image, expected)


def test_batches_come_in_order():
    batches = eval_batches.eval_image_batches(fakes.FakeSource(length=20), size=16, batch_size=8)
    assert [b["index"][b["mask"]].tolist() for b in batches] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


def test_texts():
    texts = [fakes.sentence(i) for i in range(11)]
    tokenizer = fakes.FakeTokenizer()
    batches = list(eval_batches.eval_text_batches(texts, tokenizer=tokenizer, batch_size=4))
    assert len(batches) == 3
    ids = np.concatenate([batch["text"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(ids, tokenizer.encode(texts)[0])
    assert ids.dtype == np.int32


def test_caption_list_keeps_all_captions():
    source = fakes.FakeSource(length=5, captions_each=3)
    texts, image_index = eval_batches.eval_caption_list(source)
    assert texts == [text for i in range(5) for text in source.caption(i)]
    assert image_index.dtype == np.int32 and image_index.tolist() == [
        i for i in range(5) for _ in range(3)
    ]


@pytest.mark.parametrize("damage", [{"broken": (6,)}, {"unreadable": (6,)}])
def test_a_damaged_image_ends_the_evaluation(damage):
    batches = eval_batches.eval_image_batches(
        fakes.FakeSource(length=9, **damage), size=16, batch_size=4
    )
    with pytest.raises(DataError, match=r"fake: record index 6 is unusable") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_a_missing_caption_is_named():
    with pytest.raises(DataError, match="record index 2 has no caption"):
        eval_batches.eval_caption_list(fakes.FakeSource(length=4, uncaptioned=(2,)))


def test_an_evaluation_may_be_left_early():
    batches = eval_batches.eval_image_batches(fakes.FakeSource(length=40), size=16, batch_size=4)
    with contextlib.closing(batches):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
