"""Tar shards as a source: records, captions, keys, hostile members, threads and changes."""

import io
import json
import os
import pathlib
import pickle
import shutil
import tarfile
import threading
import time

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import captions, eval_batches, examples, loader, sources
from clipjax.data.sources import shard_files, sharded, tar, tar_index
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tar import open_tars
from tests.data import fakes, tars


def test_records_across_shards(tmp_path):
    for shard in range(3):
        tars.write(tmp_path / "set" / f"{shard:05d}.tar", tars.pairs(4, start=4 * shard))
    source = sources.get("tar")(str(tmp_path / "set" / "{00000..00002}.tar"))
    assert (len(source), source.name, source.skipped) == (12, "set", {})
    for index in (0, 3, 4, 11, np.int64(7)):
        key = f"{index // 4:05d}.tar/{index:09d}"
        assert source[index] == {"image": tars.picture(index), "text": f"text {index}", "key": key}
        assert source.caption(index) == f"text {index}"
        assert source.key(index) == key
    for index in (-1, 12):
        with pytest.raises(IndexError, match="outside 0 … 11"):
            source[index]


def test_captions_are_read_without_images(tmp_path, monkeypatch):
    source = open_tars(tars.write(tmp_path / "a.tar", tars.pairs(2)))
    taken = []
    read = shard_files.OpenFile.read
    monkeypatch.setattr(
        shard_files.OpenFile,
        "read",
        lambda file, size, **options: taken.append(size) or read(file, size, **options),
    )
    assert source.caption(1) == "text 1"
    assert taken == [len("text 1")]


@pytest.mark.parametrize("order", ["json first", "all images first", "shuffled"])
def test_any_order_of_members(tmp_path, order):
    entries = list(tars.pairs(20))
    if order == "json first":
        entries = [e for i in range(20) for e in (entries[3 * i + n] for n in (1, 2, 0))]
    elif order == "all images first":
        entries.sort(key=lambda e: e[0].rsplit(".")[1])
    else:
        np.random.default_rng(0).shuffle(entries)
    source = open_tars(tars.write(tmp_path / "a.tar", entries))
    assert len(source) == 20
    for index in range(20):
        number = int(source.key(index).rsplit("/")[-1])
        assert source[index]["image"] == tars.picture(number)
        assert source[index]["text"] == f"text {number}"


def test_extensions(tmp_path):
    entries = [
        ("a.JPG", b"1"),
        ("b.png", b"2"),
        ("c.webp", b"3"),
        ("d.jpeg", b"4"),
        ("e.png", b"no"),
        ("e.jpg", b"5"),
        ("f.seg.png", b"6"),
        ("g.gif", b"7"),
    ]
    texts = [(f"{letter}.txt", letter.encode()) for letter in "abcdefg"]
    path = tars.write(tmp_path / "a.tar", [*entries, *texts])
    source = open_tars(path)
    assert [source[i]["image"] for i in range(len(source))] == [b"1", b"2", b"3", b"4", b"5"]
    assert source.skipped == {"samples without image": 2}
    only = open_tars(path, image_key="png")
    assert [only[i]["key"] for i in range(len(only))] == ["a.tar/b", "a.tar/e"]
    assert open_tars(path, image_key=".seg.png")[0]["image"] == b"6"
    assert source.fingerprint != only.fingerprint


def test_text_from_a_json_field(tmp_path):
    values = ["one", ["two", "zwei"], None, 7, [1, 2], "\ufeff né"]
    entries = []
    for index, value in enumerate(values):
        entries += [(f"{index}.json", json.dumps({"n": index, "cap": value}).encode())]
        entries += [(f"{index}.jpg", b"image")]
    broken = (b"{'cap': 1}", b"[" * 100_000, b"[]", b"", b'"cap"', b'{"cap": "\xff\xfeok"}')
    for index, data in enumerate(broken, start=len(values)):
        entries += [(f"{index}.jpg", b"image"), (f"{index}.json", data)]
    source = open_tars(tars.write(tmp_path / "a.tar", entries), text_key="cap")
    assert [source.caption(i) for i in (0, 1, 2, 5)] == ["one", ["two", "zwei"], "", "\ufeff né"]
    assert source[1]["text"] == ["two", "zwei"]
    assert source.caption(11) == "\udcff\udcfeok"
    for index in (3, 4, 6, 7, 8, 9, 10):
        with pytest.raises(ValueError, match=f"a.tar/{index}: .*json"):
            source.caption(index)


def test_text_from_another_member(tmp_path):
    path = tars.write(
        tmp_path / "a.tar", [("1.jpg", b"x"), ("1.cap", b"from \xffcap"), ("1.txt", b"t")]
    )
    assert open_tars(path, text_key=".cap").caption(0) == "from \udcffcap"
    assert open_tars(path, text_key="txt").caption(0) == "t"


def test_members_above_the_limits_are_bad_records(tmp_path):
    big = tars.entry("1.jpg", bytes(10))
    path = tars.write(tmp_path / "a.tar", [("0.jpg", b"x"), ("0.txt", bytes(tar.MAX_TEXT + 1))])
    with tarfile.open(path, "a") as file:
        for name in ("1.txt", "2.txt", "2.jpg"):
            file.addfile(tars.entry(name, b"fine")[0], io.BytesIO(b"fine"))
    with open(path, "r+b") as file:  # 65 MB that are a hole, so that the test is quick
        end = file.seek(0, os.SEEK_END)
        while end and not any(read_at(file, end - 512)):
            end -= 512
        big[0].size = tar.MAX_IMAGE + 1
        file.seek(end)
        file.write(big[0].tobuf(tarfile.GNU_FORMAT))
        file.truncate(end + 512 + tar_index.padded(big[0].size) + 1024)
    source = open_tars(path)
    assert len(source) == 3 and source[2]["image"] == b"fine"
    for index in (0, 1):
        with pytest.raises(ValueError, match=rf"a.tar/{index}: a member of [\d,]+ bytes is above"):
            source[index]
    assert source.caption(1) == "fine"


def read_at(file, offset):
    file.seek(offset)
    return file.read(512)


def test_pickles_without_files_and_reads_in_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "OPEN_FILES", 2)
    monkeypatch.setattr(sharded, "TABLES", 3)
    for shard in range(8):
        tars.write(tmp_path / f"{shard}.tar", tars.pairs(6, start=6 * shard))
    source = open_tars(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    source[0]
    state = pickle.dumps(source)
    assert len(state) < 3000
    copy = pickle.loads(state)  # noqa: S301 (our own bytes)
    assert copy.fingerprint == source.fingerprint and len(copy) == len(source)
    wrong = []

    def reader(seed):
        for index in np.random.default_rng(seed).integers(len(copy), size=300):
            record = copy[index]
            if record != {**record, "image": tars.picture(index), "text": f"text {index}"}:
                wrong.append(index)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 2


def test_trains_and_evaluates(tmp_path):
    source = open_tars(
        tars.write(tmp_path / "a.tar", [*tars.pairs(10), ("x.jpg", b"bad"), ("x.txt", b"t")])
    )
    assert "text 3" in set(captions.sample(source, limit=100))
    stream = examples.TrainExamples(source, tokenizer=fakes.FakeTokenizer(), image_size=16, seed=0)
    batches = loader.train_batches(stream, start=0, batch_size=11, num_workers=0)
    batch, info = next(batches)
    batches.close()
    assert batch["image"].shape == (11, 16, 16, 3)
    assert info["bad_key"][info["bad"] != ""].tolist() == ["a.tar/x"]
    good = open_tars(tars.write(tmp_path / "b.tar", tars.pairs(10)))
    assert len(list(eval_batches.eval_image_batches(good, size=16, batch_size=5))) == 2


def test_hostile_members_are_inert(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    canary = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    sparse = bytearray(tars.header("sparse.jpg", 512, kind=b"S"))
    sparse[482] = 1
    sparse[148:156] = b"        "
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    new_sparse = tars.pax(GNU_sparse_major=b"1", path=b"newsparse.jpg")
    tail = [
        *(bytes(sparse), b"map", b"data"),
        *(tars.header("x", len(new_sparse), kind=b"x"), new_sparse, tars.header("n", 5), b"12345"),
    ]
    entries = [
        tars.entry("../../up.jpg", b"up"),
        tars.entry("../../up.txt", b"up text"),
        tars.entry("/etc/abs.jpg", b"abs"),
        tars.entry("/etc/abs.txt", b"abs text"),
        tars.entry("link.jpg", kind=tarfile.SYMTYPE, linkname=str(outside)),
        tars.entry("link.txt", kind=tarfile.SYMTYPE, linkname=str(outside)),
        tars.entry("hard.jpg", kind=tarfile.LNKTYPE, linkname=str(outside)),
        tars.entry("hard.txt", b"x"),
        tars.entry("device.jpg", kind=tarfile.CHRTYPE, devmajor=1, devminor=5),
        tars.entry("block.jpg", kind=tarfile.BLKTYPE),
        tars.entry("pipe.txt", kind=tarfile.FIFOTYPE),
        tars.entry("folder.jpg", kind=tarfile.DIRTYPE),
        tars.entry("payload.pkl", canary),
        tars.entry("payload.pyd", canary),
        tars.entry("payload.jpg", b"p"),
        tars.entry("payload.txt", b"p text"),
        tars.entry("twice.jpg", b"1"),
        tars.entry("twice.txt", b"1"),
        tars.entry("twice.jpg", b"2"),
        tars.entry("line\nbreak\x1b.jpg", b"l"),
        tars.entry("line\nbreak\x1b.txt", b"l text"),
        tars.entry("._payload.jpg", b"apple"),
        tars.entry("noextension", b"?"),
        tars.entry("bad.ex\nt", b"?"),
        tars.entry("n" * 5000 + ".jpg", b"?"),
        tars.entry("loner.jpg", b"?"),
    ]
    path = tars.write(tmp_path / "in" / "a.tar", entries)
    whole = pathlib.Path(path).read_bytes().rstrip(b"\0")
    tars.raw(pathlib.Path(path), whole, *tail)
    files = sorted(os.walk(tmp_path))
    source = open_tars(path, files=ShardFiles(str(tmp_path / "cache")))
    records = [source[i] for i in range(len(source))]
    assert [(r["key"], r["image"], r["text"]) for r in records] == [
        ("a.tar/../../up", b"up", "up text"),
        ("a.tar//etc/abs", b"abs", "abs text"),
        ("a.tar/payload", b"p", "p text"),
        (r"a.tar/line\nbreak\x1b", b"l", "l text"),
    ]
    assert source.skipped == {
        "samples without image": 1,
        "samples without text": 1,
        "samples with a member twice": 1,
        "members that are no regular files": 8,
        "members without key and extension": 4,
    }
    shutil.rmtree(tmp_path / "cache")
    assert sorted(os.walk(tmp_path)) == files  # nothing extracted, the canary never ran


def test_all_damaged_shards_are_counted(tmp_path, caplog):
    for shard in range(4):
        tars.write(tmp_path / f"{shard}.tar", tars.pairs(2))
    for shard in (1, 3):
        (tmp_path / f"{shard}.tar").write_bytes(b"no")
    tars.refused(
        DataError, r"2 of 4 tar shards are unusable; the first: tar shard .*1.tar: ", tmp_path
    )
    assert "3.tar" in caplog.text


def test_keys_that_fit_nothing(tmp_path):
    entries = [e for i in range(5) for e in ((f"{i}.jpg", b"x"), (f"{i}.cls", b"3"))]
    path = tars.write(tmp_path / "set" / "a.tar", entries)
    message = tars.refused(DataError, "data set set: 0 of the first 5 samples have both", path)
    assert "seen: jpg, cls; set config.data.image_key" in message
    tars.write(tmp_path / "set" / "b.tar", [])
    tars.refused(DataError, "shards without any sample", str(tmp_path / "set" / "b.tar"))
    path = tars.write(tmp_path / "c.tar", tars.pairs(3))
    message = tars.refused(DataError, "0 of the first 3 samples", path, text_key="captoin")
    assert "captoin' in their .json (did you mean \"caption\"?); fields seen: 'caption'" in message
    assert len(open_tars(path, text_key="caption")) == 3


def test_wrong_keys_are_told_before_all_shards_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "LOOKED_AT", 3)
    monkeypatch.setattr(sharded, "THREADS", 1)
    for shard in range(200):
        tars.write(tmp_path / f"{shard:03d}.tar", [(f"{i}.cls", b"1") for i in range(2)])
    tars.refused(DataError, "0 of the first 4 samples", tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) < 150


def test_fingerprint_is_of_the_content_named(tmp_path):
    path = tars.write(tmp_path / "a" / "0.tar", tars.pairs(3))
    source = open_tars(path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "0.tar", (1, 1))
    assert open_tars(tmp_path / "b").fingerprint == source.fingerprint
    assert open_tars(path, text_key="caption").fingerprint != source.fingerprint
    tars.write(tmp_path / "b" / "1.tar", tars.pairs(1))
    assert open_tars(tmp_path / "b").fingerprint != source.fingerprint


def test_a_shard_that_changes_under_a_running_source(tmp_path):
    path = tars.write(tmp_path / "a.tar", tars.pairs(3))
    source = open_tars(path)
    fresh = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    same = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    os.utime(path, ns=(5, 5))
    assert same[1] == source[1]  # touched only: goes on
    entries = list(tars.pairs(3))
    entries[0], entries[3] = (entries[3][0], entries[0][1]), (entries[0][0], entries[3][1])
    os.replace(tars.write(tmp_path / "other", entries), path)
    with pytest.raises(DataError, match=r"a.tar: changed while in use; start again"):
        fresh[1]
    os.unlink(path)
    late = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    with pytest.raises(OSError):
        late[1]
    assert late.key(1) == "a.tar/sample 1"


def test_speed(tmp_path):
    """Ten thousand samples are indexed in well under half a second; figures with -s."""
    data = {"jpg": bytes(1500), "json": bytes(300), "txt": bytes(50)}
    entries = [
        (f"{i:09d}.{ending}", value) for i in range(10_000) for ending, value in data.items()
    ]
    path = tars.write(tmp_path / "a.tar", entries)
    tries = []
    for _ in range(3):
        start = time.process_time()
        tar_index.build(shard_files.OpenFile(path))
        tries.append(time.process_time() - start)
    made = min(tries)
    assert made < 0.5
    source = open_tars(path)
    start = time.process_time()
    for index in np.random.default_rng(0).integers(len(source), size=2000):
        source[index]
    print(f"10,000 samples indexed in {made:.3f} CPU-s;", end=" ")
    print(f"{2000 / (time.process_time() - start):,.0f} random reads per CPU-s")
