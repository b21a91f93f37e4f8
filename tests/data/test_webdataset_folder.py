"""The folder layout of CLIP_benchmark and DataComp: every kind of set, and every refusal."""

import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.sources.webdataset_folder import WebDatasetFolder
from tests.data import tars, webdatasets

NAMES = ("red fox", "", "owl")  # CLEVR's third distance has no name


def samples(count, **members):
    return [
        {"webp" if i % 2 else "jpg": tars.picture(i)}
        | {name: make(i) for name, make in members.items()}
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    made = samples(7, cls=lambda i: b"%d\n" % (i % 3), npy=lambda i: webdatasets.npy([i // 4, i]))
    templates = ("a photo of {c}.", "{c}")
    return webdatasets.write(tmp_path / "wds_x_test", made, names=NAMES, templates=templates)


def test_classes_names_templates_and_groups(folder):
    source = WebDatasetFolder(folder)
    assert len(source) == 7 and source.kind == "classification"
    assert source.labels == ("0", "1", "2") and source.class_names == NAMES
    assert source.templates == ("a photo of {}.", "{}")
    assert [source.label(i) for i in range(7)] == list("0120120")
    record = source[5]
    assert record == {"image": tars.picture(5), "key": "1.tar/s0000005", "label": "2"}
    assert source.has_groups and source.groups(5).tolist() == [1, 5]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert copy[3] == source[3] and copy.fingerprint == source.fingerprint


def test_the_fingerprint_changes_with_the_content(folder, tmp_path):
    made = samples(7, cls=lambda i: b"%d" % (10 * (i % 3)), npy=lambda i: webdatasets.npy([i, i]))
    other = webdatasets.write(tmp_path / "other", made, names=NAMES)
    assert WebDatasetFolder(other).fingerprint != WebDatasetFolder(folder).fingerprint


def test_captions_one_a_line(tmp_path):
    made = samples(3, txt=lambda i: f"café {i}\nsecond".encode())
    source = WebDatasetFolder(webdatasets.write(tmp_path, made, kind="retrieval"))
    assert source.kind == "retrieval" and source.labels is None
    assert source[1]["text"] == source.caption(1) == ["café 1", "second"]


def test_several_classes_an_image(tmp_path):
    made = samples(3, npy=lambda i: webdatasets.npy([i == 0, 1, 0]))
    source = WebDatasetFolder(webdatasets.write(tmp_path, made, kind="multilabel", names="abc"))
    positive, ignored = source.targets(0)
    assert positive.tolist() == [True, True, False] and not ignored.any()
    assert not source.has_groups


def test_classes_are_those_that_occur_where_no_names_are(tmp_path):
    made = samples(4, cls=lambda i: b"%d" % (i * 5))
    source = WebDatasetFolder(webdatasets.write(tmp_path, made))
    assert source.labels == ("0", "5", "10", "15")
    assert source.class_names is None and source.templates == ()


def refused(pattern, path, **options):
    with pytest.raises(DataError, match=pattern) as caught:
        WebDatasetFolder(path, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_split_names_those_there_are(folder, tmp_path):
    refused(r"no split 'train' .*splits: test", folder, split="train")
    refused(r"no split 'test' .*splits: none", tmp_path / "nowhere")


def test_missing_and_cut_shards_are_named(folder):
    shard = folder / "test" / "1.tar"
    data = shard.read_bytes()
    shard.unlink()
    refused(r"shard 1 of 2 that nshards.txt tells of cannot be read", folder)
    shard.write_bytes(data[: len(data) // 2])
    refused(r"1.tar: .*cut short", folder)


def test_samples_without_label_are_named(tmp_path):
    made = samples(4, cls=lambda i: b"0")
    del made[2]["cls"]
    refused(r"sample s0000002 has no .cls, and 0 more", webdatasets.write(tmp_path, made))
    made = samples(4, cls=lambda i: b"0")
    refused(r"has no .txt, and 1 more", webdatasets.write(tmp_path, made, kind="retrieval"))
    refused(r"dataset_type.txt: 'video' is none", webdatasets.write(tmp_path, made, kind="video"))


def test_labels_that_are_no_numbers_are_named(tmp_path):
    source = WebDatasetFolder(webdatasets.write(tmp_path, samples(2, cls=lambda i: b"fox")))
    with pytest.raises(DataError, match=r"sample 0.tar/s0000000: its .cls is b'fox'"):
        source.label(0)


def test_arrays_are_never_unpickled(tmp_path):
    made = samples(2, npy=lambda i: webdatasets.npy(np.array([{}], object)))
    source = WebDatasetFolder(webdatasets.write(tmp_path, made, kind="multilabel", names="a"))
    with pytest.raises(DataError, match=r"its .npy cannot be read"):
        source.targets(0)
