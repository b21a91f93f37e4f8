"""Looking through a data set: counts, broken records, duplicates, in any number of processes."""

import collections
import dataclasses
import pickle
import time

import pytest

from clipjax.common.exits import DataError
from clipjax.curation import check, workers
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars


def make(tmp_path):
    for shard in range(3):
        entries = list(tars.pairs(20, start=20 * shard))
        if shard == 1:
            entries[3 * 4] = (entries[3 * 4][0], entries[3 * 4][1][:300])  # half a JPEG
            entries[3 * 5 + 2] = (entries[3 * 5 + 2][0], b" \x00")
        if shard == 2:
            entries[0] = (entries[0][0], tars.picture(7))
            entries[3 + 2] = (entries[3 + 2][0], b"caf\xe9 text 41")
        tars.write(tmp_path / f"{shard}.tar", entries)
    return open_tars(tmp_path)


def test_findings(tmp_path):
    source = make(tmp_path)
    found, indices = check.check(source, limit=0, num_workers=0, show=False)
    summed = check.summary(found, source=source)
    assert list(indices) == list(range(60))
    assert (summed["looked at"], summed["broken"]) == (60, 2)
    assert summed["broken by reason"] == {"damaged image": 1, "empty caption": 1}
    assert summed["broken by shard"] == {"1.tar": 2}
    assert summed["broken, first"][0] == ("1.tar/000000024", "damaged image")
    assert summed["images seen before"] == 1 and summed["captions seen before"] == 0
    assert summed["captions that lose characters"] == 1
    assert summed["shorter side"]["median"] == 20 and summed["longer side"]["most"] == 24
    assert summed["formats"] == {"JPEG": 58} and summed["keys seen"] == ["jpg", "json", "txt"]
    assert "broken by shard                1.tar: 2" in check.describe(summed)
    assert check.sheet(source, indices, count=6).size[0] > 300


def test_images_that_come_again_with_other_captions_are_counted(tmp_path):
    texts = ["a dog", "a dog", " a dog ", "a hound", "one dog", "a cat"]
    entries = []
    for index, text in enumerate(texts):
        entries += [
            (f"{index}.jpg", tars.picture(text == "a cat")),
            (f"{index}.txt", text.encode()),
        ]
    found, _ = check.check(
        open_tars(tars.write(tmp_path / "a.tar", entries)), limit=0, num_workers=0, show=False
    )
    summed = check.summary(found, source=open_tars(tmp_path))
    assert (summed["images seen before"], summed["of these with other captions"]) == (4, 2)
    assert "of these with other captions   2" in check.describe(summed)


def test_processes_find_the_same(tmp_path):
    source = make(tmp_path)
    alone, _ = check.check(source, limit=50, num_workers=0, show=False)
    together, _ = check.check(source, limit=50, num_workers=2, show=False)
    assert dataclasses.asdict(together) == dataclasses.asdict(alone)


class Growing(fakes.FakeSource):
    """Records that all differ, in size, too."""

    picture = fakes.encode(fakes.photo(0, width=24, height=20))

    def __getitem__(self, index):
        image = self.picture + b" " * index
        return {"image": image, "text": [f"fox {index}", f"fox {index}"], "key": f"a.tar/{index}"}


def test_findings_on_a_large_set_are_eight_bytes_an_image_pair_and_caption():
    sizes = [
        len(pickle.dumps(check.inspect(range(count), source=Growing(length=count))))
        for count in (2000, 5000)
    ]
    assert sizes[1] - sizes[0] < 3000 * (8 + 8 + 8 + 1), sizes


def test_quantiles_are_of_values_that_there_are():
    names = ("least", "5 %", "median", "95 %", "most")
    counted = collections.Counter({7: 1, 10: 1, 1000: 96, 2000: 1, 3000: 1})
    assert check.quantiles(counted) == dict(zip(names, (7, 1000, 1000, 1000, 3000), strict=True))
    assert check.quantiles(collections.Counter()) == dict.fromkeys(names, 0)
    assert check.quantiles(collections.Counter([3, 1, 2]))["median"] == 2
    assert [check.three_digits(n) for n in (0, 7, 999, 1234, 98_765)] == [0, 7, 999, 1230, 98_800]


def test_wrong_keys_are_told_within_a_second(tmp_path):
    for shard in range(5):
        entries = [(f"{i:05d}.{kind}", b"x") for i in range(2000) for kind in ("jpg", "cls")]
        tars.write(tmp_path / f"{shard}.tar", entries)
    began = time.process_time()
    with pytest.raises(DataError, match=r"0 of the first 2,000 samples .* seen: jpg, cls"):
        open_tars(f"{tmp_path}/0.tar")
    assert time.process_time() - began < 1


def fail(chunk):
    if chunk == 3:
        raise DataError("chunk 3 is bad")
    return chunk * chunk


def die(chunk):
    import os

    os._exit(9)


def test_workers_keep_the_order_and_tell_faults(monkeypatch):
    assert list(workers.results(fail, [5, 6, 1, 9], num_workers=2, show=False)) == [25, 36, 1, 81]
    for num_workers in (0, 2):
        with pytest.raises(DataError, match="chunk 3 is bad"):
            list(workers.results(fail, [1, 2, 3, 4], num_workers=num_workers, show=False))
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    with pytest.raises(RuntimeError, match="ended with exit code 9"):
        list(workers.results(die, [1], num_workers=1, show=False))


def test_spans():
    assert workers.spans(7, size=3) == [range(0, 3), range(3, 6), range(6, 7)]
    assert workers.spans(0, size=3) == []


def test_bench_and_cores(tmp_path):
    from clipjax.curation import bench
    from clipjax.data.examples import TrainExamples

    examples = TrainExamples(make(tmp_path), tokenizer=fakes.FakeTokenizer(), image_size=16, seed=0)
    found = bench.stages(examples, count=40)
    assert list(found) == ["read", "decode, crop, resize", "clean, tokenize", "all, in batches"]
    assert all(value > 0 for value in found.values())
    assert bench.cores_needed(25_000, per_core=200, hosts=64) == 3  # 1.3 × 1.95
    assert "num_workers=" in bench.describe(found, rate=1e4, hosts=4)
