"""TFRecord files: framing, Examples, features by name, damage."""

import gzip
import os
import pickle

import pytest

from clipjax.common.exits import DataError
from clipjax.data.sources import tfrecord
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.tfrecord import open_tfrecords
from tests.data import fakes


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def write(path, count, *, start=0):
    """As img2dataset writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return fakes.write_tfrecord(
        path,
        [
            fakes.example(key=f"{i:09d}", jpg=picture(i), txt=f"text {i}", width=24, alt=f"alt {i}")
            for i in range(start, start + count)
        ],
    )


def refused(pattern, *arguments, **options):
    with pytest.raises(DataError, match=pattern) as caught:
        open_tfrecords(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_records_across_files(tmp_path):
    for shard in range(3):
        write(tmp_path / "set" / f"{shard:05d}.tfrecord", 4, start=4 * shard)
    source = open_tfrecords(str(tmp_path / "set" / "{00000..00002}.tfrecord"))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert (len(source), source.name, source.lengths) == (12, "set", [4, 4, 4])
    for index in (0, 3, 4, 11):
        key = f"{index // 4:05d}.tfrecord/{index % 4}"
        expected = {"image": picture(index), "text": f"text {index}", "key": key}
        assert source[index] == again[index] == expected
        assert source.caption(index) == f"text {index}"
    other = open_tfrecords(tmp_path / "set", text_key="alt,txt")
    assert other.caption(5) == {"alt": "alt 5", "txt": "text 5"}
    assert other.fingerprint != source.fingerprint


def test_features_of_other_names_and_lists(tmp_path):
    records = [fakes.example(**{"image/encoded": b"i", "image/caption": ["a", "b"], "n": 300})]
    path = fakes.write_tfrecord(tmp_path / "a.tfrecord", records)
    assert open_tfrecords(path)[0]["text"] == ["a", "b"]
    strange = fakes.write_tfrecord(tmp_path / "b.tfrecord", [fakes.example(pixels=b"i", words="w")])
    source = open_tfrecords(strange, image_key="pixels", text_key="words")
    assert (source[0]["image"], source[0]["text"]) == (b"i", "w")
    refused("0 of the first 1 record .*keys seen: pixels, words; set config.data.image", strange)
    refused(r'did you mean "words"', strange, image_key="pixels", text_key="word")


def test_names_as_tfds_gives_them(tmp_path):
    for shard in range(3):
        write(tmp_path / f"set-train.tfrecord-{shard:05d}-of-00003", 2, start=2 * shard)
    for _ in range(2):  # the second time with indexes beside the files
        for path in (tmp_path, f"{tmp_path}/*.tfrecord*"):
            source = open_tfrecords(path)
            assert [source[i]["text"] for i in range(6)] == [f"text {i}" for i in range(6)]


def test_the_index_is_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tfrecord", 5)
    source = open_tfrecords(path)
    monkeypatch.setattr(tfrecord, "offsets", None)
    assert open_tfrecords(path)[4] == source[4]
    assert (tmp_path / "a.tfrecord.index.npz").exists()


def test_damage(tmp_path):
    path = tmp_path / "a.tfrecord"
    write(path, 5)
    whole = path.read_bytes()
    files = ShardFiles(str(tmp_path / "cache"))

    def content(data):
        path.write_bytes(data)
        return str(path)

    refused("cut short", content(whole[:-1]), files=files)
    refused("not a TFRecord file", content(b"no" * 100), files=files)
    refused(r"compressed; uncompress it \(gunzip\)", content(gzip.compress(whole)), files=files)
    size = int.from_bytes(whole[:8], "little")
    refused(
        f"damaged length at byte {size + 16}",
        content(whole[: size + 16] + b"x" + whole[size + 17 :]),
        files=files,
    )
    source = open_tfrecords(content(whole[:12] + b"\xff" * size + whole[12 + size :]), files=files)
    with pytest.raises(ValueError, match=r"a.tfrecord/0: wrong checksum"):
        source[0]
    assert source[1]["text"] == "text 1"


def test_a_flipped_bit_is_a_bad_record(tmp_path):
    """In the middle of a JPEG nothing else would show it."""
    path = tmp_path / "a.tfrecord"
    source = open_tfrecords(write(path, 2))
    before = source.caption(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    stamp = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))
    source = open_tfrecords(str(path))
    with pytest.raises(ValueError, match=r"a.tfrecord/0: wrong checksum"):
        source.caption(0)
    assert source.caption(1) == before


def test_checksums_against_known_values():
    """From the CRC32C test vectors of RFC 3720, B.4."""
    crc = tfrecord.masked_crc(bytes(32))
    assert crc == tfrecord.mask(0x8A9136AA)
    assert tfrecord.masked_crc(bytes(range(32))) == tfrecord.mask(0x46DD794E)
