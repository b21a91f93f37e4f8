"""Caption text: cleaning, choice, sampling."""

import numpy as np
import pytest

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import captions, mixture
from clipjax.data.source import REMOTE_SHARDS, Shards, Source
from clipjax.data.sources.table import open_tables
from clipjax.data.tokenizers.sentencepiece import train_sentencepiece
from tests.data import fakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a  fox\n\tand\r\nan owl ", "a fox and an owl"),
        ("a\x00 fox\x07", "a fox"),
        ("fox\u00a0owl\u2028pizza\u3000boat\x85tree", "fox owl pizza boat tree"),
        ("\ufefffox\u200b owl", "fox owl"),
        ("half \ud83d emoji", "half emoji"),
        ("naïve café 日本語 👩‍🚀", "naïve café 日本語 👩‍🚀"),
        (b"caf\xc3\xa9 \xff\xfe fox", "café fox"),
        ("", ""),
        (" \x00\t ", ""),
    ],
)
def test_clean(text, expected):
    cleaned = captions.clean(text)
    assert cleaned == expected
    cleaned.encode("utf-8")


def test_clean_bounds_the_length():
    assert len(captions.clean("a" * 10**6)) == captions.MAX_CHARACTERS
    assert captions.clean(" " * 10**6 + "fox") == "fox"


def test_choose_is_even_and_skips_empty_captions():
    rng = np.random.default_rng(0)
    chosen = [captions.choose([" a", "", "b ", "\x00", "c"], rng=rng)[0] for _ in range(3000)]
    counts = {text: chosen.count(text) for text in set(chosen)}
    assert sorted(counts) == ["a", "b", "c"]
    assert min(counts.values()) > 900


@pytest.mark.parametrize("text", ["", "  ", [], ["", "\n"], "\x00", b"\xff"])
def test_no_caption_is_a_bad_record(text):
    with pytest.raises(captions.BadCaption, match="empty caption"):
        captions.choose(text, rng=np.random.default_rng(0))


def test_sample_is_spread_over_the_source_and_capped():
    source = fakes.FakeSource(length=100, captions_each=2, uncaptioned=(0,))
    sampled = list(captions.sample(source, limit=10))
    expected = [caption for i in range(10, 100, 10) for caption in source.caption(i)]
    assert sampled == expected
    assert len(list(captions.sample(source, limit=10**9))) == 2 * 99


def test_sample_leaves_out_records_that_cannot_be_read():
    class Captions(Source):
        def __len__(self):
            return 6

        def caption(self, index):
            if index == 2:
                raise ValueError("over-long")
            return f"caption {index}"

    found = list(captions.sample(Captions(), limit=10))
    assert found == [f"caption {index}" for index in (0, 1, 3, 4, 5)]


def chosen(text, weights=(), count=2000):
    rng = np.random.default_rng(0)
    picked = [captions.choose(text, rng=rng, weights=weights)[0] for _ in range(count)]
    return {one: picked.count(one) / count for one in sorted(set(picked))}


def test_fields_by_priority():
    assert chosen({"new": "n", "old": "o"}) == {"n": 1.0}
    assert chosen({"new": " \x00", "old": "o"}) == {"o": 1.0}
    halves = chosen({"new": ["", "a", "b"], "old": "o"})
    assert halves.keys() == {"a", "b"} and abs(halves["a"] - 0.5) < 0.05


def test_fields_by_weight():
    shares = chosen({"new": ["a", "b"], "old": "o", "alt": "x"}, weights=(3.0, 1.0, 0.0))
    assert shares.keys() == {"a", "b", "o"}
    assert abs(shares["o"] - 0.25) < 0.03 and abs(shares["a"] - 0.375) < 0.03
    assert chosen({"new": "", "old": "o", "alt": ""}, weights=(3.0, 1.0, 1.0)) == {"o": 1.0}
    with pytest.raises(captions.BadCaption):
        chosen({"new": "", "old": "o"}, weights=(1.0, 0.0))


@pytest.mark.parametrize(
    ("text", "altered"),
    [
        ("  plain \n text ", False),
        ("a\x00b", True),
        (b"caf\xff", True),
        ("caf\u00e9", False),
        ("x" * 5000, True),
        ("half \ud83d emoji", True),
    ],
)
def test_cleaning_is_told(text, altered):
    assert captions.choose(text, rng=np.random.default_rng(0))[1] is altered


@pytest.mark.parametrize("period", [2, 3, 10, 40])
def test_drawn_records_are_spread_without_a_rhythm(period):
    """Records stand in turn by class; each class is met about as often as by chance."""
    source = fakes.FakeSource(length=40 * period)
    indices = source.spread(limit=40, drawn=True)
    assert indices == source.spread(limit=40, drawn=True) and len(indices) == 40
    assert [index // period for index in indices] == list(range(40))  # one of each piece
    assert len({index % period for index in indices}) > min(period, 40) / 2
    assert {index % period for index in source.spread(limit=40)} == {0}
    assert source.spread(limit=10**9, drawn=True) == list(range(40 * period))


def test_samples_of_remote_shards_read_few_of_them():
    class Remote(fakes.FakeSource):
        shards = Shards((10,) * 400, (1,) * 400, is_remote=True)

    indices = Remote(length=4000).spread(limit=100)
    assert len({index // 10 for index in indices}) == REMOTE_SHARDS
    assert 100 <= len(indices) <= 100 + REMOTE_SHARDS
    assert Remote(length=4000).spread(limit=10**9)[-1] == 3879  # whole shards
    near, far = fakes.FakeSource(length=100), Remote(length=4000)
    joined = mixture.Joined({"near": near, "far": far})
    both = joined.spread(limit=410)
    assert sum(index < 100 for index in both) == 10 and max(both) < 4100


def test_a_sample_of_nothing_that_can_be_read_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text('[\n{"file_name": "0.jpg",\n"text": "a"}\n]')
    told = r"data: no caption can be read; the first: a.jsonl/0: the line is no JSON \(line 1: "
    with pytest.raises(DataError, match=told):
        list(captions.sample(open_tables(tmp_path / "a.jsonl"), limit=100))
    (tmp_path / "b.csv").write_text("filepath,title\n0.jpg,a\n1.jpg\n2.jpg,\n")
    assert list(captions.sample(open_tables(tmp_path / "b.csv"), limit=100)) == ["a"]


def test_too_few_captions_are_laid_to_the_rows_where_most_of_them_are_bad(tmp_path):
    """Not to the size of the vocabulary; of few bad rows both are told."""
    for name, bad in (("most", 9), ("few", 2), ("none", 0)):
        rows = [f"{i}.jpg,a fox,one field too many" for i in range(bad)]
        rows += [f"{i}.jpg,a fox" for i in range(bad, 12)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["filepath,title", *rows]) + "\n")

    def made(name):
        sample = captions.sample(open_tables(tmp_path / f"{name}.csv"), limit=100)
        with sample.blamed():
            train_sentencepiece(sample, vocab_size=9999)

    reason = "of 12 records have no caption that can be read; the first: "
    with pytest.raises(DataError, match=f"^data: 9 {reason}.*line 2"):
        made("most")
    with pytest.raises(ConfigError, match=f"vocab_size=9999: more than .*2 {reason}.*line 2"):
        made("few")
    with pytest.raises(ConfigError, match=r"in config\.tokenizer\.path$"):
        made("none")
