"""Finding and opening the data of registered sets and of a user's own, and refusing wrong ones."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax import config
from clipjax.build import data as build_data
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import eval_batches
from clipjax.evals import class_names, suites
from clipjax.evals.suites import set_data
from tests.data import tars, webdatasets

CLASSES = ("ant", "bee", "cat")
PETS = dataclasses.replace(
    suites.get("pets"),
    classes=3,
    protocols={
        "paper": suites.Expected(6, "mean_per_class_accuracy"),
        "open_clip": suites.Expected(9, "top1_accuracy"),
    },
)


def opened(entry, data=""):
    return set_data.open_set(entry, data=str(data), image_size=32)


def folder_of(path, count=6):
    for i in range(count):
        place = path / CLASSES[i % 3] / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tars.picture(i))
    return path


def webdataset(path, count=9, names=CLASSES):
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(count)]
    return webdatasets.write(path, samples, names=names, templates=["a {c}."])


def test_the_size_decides_whose_protocol_and_metric_it_is(tmp_path):
    folder_of(tmp_path / "pets" / "test")
    found = opened(PETS, tmp_path)
    assert (found.agrees, found.metric) == (("paper",), "mean_per_class_accuracy")
    assert found.keys == CLASSES and found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    webdataset(tmp_path / "wds_vtab-pets_test")  # comes before plain folders
    found = opened(PETS, tmp_path)
    assert (found.agrees, found.metric) == (("open_clip",), "top1_accuracy")
    assert found.keys == ("0", "1", "2") and "WebDataset" in found.where


def test_a_folder_named_as_tfds_names_the_set_may_hold_images(tmp_path):
    """Of food101, imagenet_sketch and others the two names agree; TFDS's folder holds versions."""
    entry = dataclasses.replace(PETS, tfds={"name": "pets", "test": "test"})
    (tmp_path / "pets" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ConfigError, match="pets"):
        opened(entry, tmp_path)
    folder_of(tmp_path / "pets" / "test")
    assert "images by class" in opened(entry, tmp_path).where


def test_tables_with_classes_captions_and_groups(tmp_path):
    (tmp_path / "pets").mkdir()
    for i in range(6):
        (tmp_path / "pets" / f"{i}.jpg").write_bytes(tars.picture(i))
    rows = [f"{i}.jpg,{CLASSES[i % 3]},{'north' if i < 2 else 'south'}" for i in range(6)]
    (tmp_path / "pets" / "test.csv").write_text("\n".join(["file_name,label,region", *rows]))
    entry = dataclasses.replace(PETS, group_column=0)
    found = opened(entry, tmp_path)
    assert found.kind == "classification" and found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.groups.tolist() == ["north"] * 2 + ["south"] * 4
    assert found.source[1]["image"] == tars.picture(1)
    lines = ['{"image": "0.jpg", "caption": ["a", "b"]}', '{"image": "1.jpg", "caption": "c"}']
    (tmp_path / "pets" / "mine.jsonl").write_text("\n".join(lines))
    own = opened(suites.own("mine", path=str(tmp_path / "pets" / "mine.jsonl")))
    assert own.kind == "retrieval" and own.source.caption(0) == ["a", "b"]
    assert own.metric == "mean_recall_at_1" and own.agrees == ()


def test_captions_that_are_missing_leave_an_images_others(tmp_path):
    (tmp_path / "0.jpg").write_bytes(tars.picture(0))
    lines = ['{"image": "0.jpg", "caption": ["a", null]}', '{"image": "0.jpg", "caption": null}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    source = opened(suites.own("x", path=str(tmp_path / "x.jsonl"))).source
    assert eval_batches.eval_captions(source, 0) == ["a"]
    for odd, told in (("5", "caption is no text"), ("[null]", "0.jpg has no caption")):
        (tmp_path / "x.jsonl").write_text(f'{{"image": "0.jpg", "caption": {odd}}}')
        with pytest.raises(DataError, match=told):
            eval_batches.eval_captions(
                opened(suites.own("x", path=str(tmp_path / "x.jsonl"))).source, 0
            )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file_name,label\n0.jpg,\n", "row 0 has no file_name or no label"),
        ("name,label\n0.jpg,a\n", "needs a column with the image's path .*has: name, label"),
        ("", "has: no rows"),
        ("file_name,label\n0.jpg,a\n1.jpg,b,c\n", r"wrong number of fields \(line 3: 3 where"),
        ('file_name,caption\n0.jpg,"a"b\n', r"line 2"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, told):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=told):
        opened(suites.own("mine", path=str(tmp_path / "x.csv")))


def test_a_wrong_size_is_no_score(tmp_path):
    folder_of(tmp_path / "pets" / "test", count=7)
    with pytest.raises(DataError, match=r"holds 7 images where .* has 6 \(paper\), 9 \(open_clip"):
        opened(PETS, tmp_path)


def test_wrong_classes_are_no_score(tmp_path):
    webdataset(tmp_path / "pets", names=(*CLASSES, "dog"))
    with pytest.raises(DataError, match=r"has 4 classes where Oxford-IIIT Pet has 3"):
        _ = opened(PETS, tmp_path).keys
    webdataset(tmp_path / "own", names=CLASSES[:2])
    with pytest.raises(DataError, match=r"the class '2', which is none of the set's 2"):
        _ = opened(suites.own("own", path=str(tmp_path / "own"))).labels


def test_labels_that_count_from_one_are_told(tmp_path):
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (1 + i % len(CLASSES))} for i in range(9)]
    webdatasets.write(tmp_path / "x", samples, names=CLASSES, templates=("a {c}",))
    with pytest.raises(DataError, match="its labels count from 1, and those of a set from 0"):
        _ = opened(suites.own("x", path=str(tmp_path / "x"))).labels


def test_a_missing_split_is_no_score(tmp_path):
    folder = webdataset(tmp_path / "wds_vtab-pets_test")
    (folder / "test").rename(folder / "train")
    with pytest.raises(DataError, match=r"has no split 'test' .*splits: train"):
        opened(PETS, tmp_path)


def test_only_occurring_classes_compete_where_the_set_says_so(tmp_path):
    entry = dataclasses.replace(PETS, subset=True, classes=2, protocols={})
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 2)} for i in range(4)]
    webdatasets.write(tmp_path / "pets", samples, names=CLASSES, templates=["a {c}."])
    assert opened(entry, tmp_path).keys == ("0", "1")


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(set_data.Missing) as caught:
        opened(suites.get("pets"), tmp_path)
    told = str(caught.value)
    assert f"huggingface.co/datasets/djghosh/wds_vtab-pets_test to {tmp_path}/wds_vtab-pets" in told
    assert "tfds.builder('oxford_iiit_pet'" in told and f"{tmp_path}/pets/test/CLASS" in told
    with pytest.raises(set_data.Missing, match="captions"):
        opened(suites.get("flickr30k"), tmp_path)


@pytest.mark.parametrize("setting", ["path", "train_path", "validation_path"])
def test_a_path_of_an_own_set_where_nothing_is_is_an_error_and_not_missing(tmp_path, setting):
    paths = dict.fromkeys(("path", "train_path", "validation_path"), str(tmp_path / "set"))
    folder_of(tmp_path / "set", count=3)
    entry = suites.own("mine", **{**paths, setting: str(tmp_path / "typo")})
    opens = {"train_path": set_data.open_train, "validation_path": set_data.open_validation}
    open_it = opens.get(setting, set_data.open_set)
    with pytest.raises(DataError, match=f"typo: nothing is there .*mend {setting} of") as caught:
        open_it(entry, data="", image_size=32)
    assert not isinstance(caught.value, set_data.Missing) and '"mine"' in str(caught.value)


def test_a_train_split_beside(tmp_path):
    folder_of(tmp_path / "pets" / "train", count=12)
    assert set_data.open_train(PETS, data=str(tmp_path), image_size=32).n == 12
    with pytest.raises(set_data.Missing, match="training split"):
        set_data.open_train(suites.get("dtd"), data=str(tmp_path), image_size=32)
    digits = suites.own("digits", source="digits", n=364)
    assert opened(digits).n == 364
    assert set_data.open_train(digits, data="", image_size=32).n == 1433


def test_an_official_validation_split_beside_the_training_split(tmp_path):
    entry = dataclasses.replace(PETS, validation=3)
    place = {"data": str(tmp_path), "image_size": 32}
    folder_of(tmp_path / "pets" / "val", count=3)
    assert set_data.open_validation(entry, **place) is None  # there is no training split
    folder_of(tmp_path / "pets" / "train", count=12)
    found = set_data.open_validation(entry, **place)
    assert (found.n, found.split) == (3, "val") and str(tmp_path / "pets" / "val") in found.where
    assert set_data.open_validation(PETS, **place) is None  # this set has none
    folder_of(tmp_path / "pets" / "validation", count=4)
    with pytest.raises(DataError, match=r"holds 4 images where .* validation split has 3; copy"):
        set_data.open_validation(entry, **place)
    folder = webdataset(tmp_path / "wds_vtab-pets_test")
    (folder / "test").rename(folder / "train")
    assert set_data.open_validation(entry, **place) is None  # not out of another copy
    path = str(tmp_path / "pets")
    own = suites.own("mine", path=path, train_path=path, validation_path=f"{path}/val")
    assert set_data.open_validation(own, **place).n == 3


def test_keys_of_an_own_set_are_followed_as_its_error_says(tmp_path):
    path = str(tmp_path / "shown.tar")
    pairs = [((f"{i}.pic", tars.picture(i)), (f"{i}.cap", b"shown %d" % i)) for i in range(3)]
    tars.write(path, [member for pair in pairs for member in pair])
    with pytest.raises(DataError, match=r"; set image_key to one of these and text_key to .ONE of"):
        opened(suites.own("x", path=path, source="tar"))
    found = opened(suites.own("x", path=path, source="tar", image_key="pic", text_key=".cap"))
    assert found.captions[0] == ["shown 0", "shown 1", "shown 2"]
    with pytest.raises(ConfigError, match=r"the endings .*; source tar reads it"):
        opened(suites.own("x", path=path))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"text_key": "cap"}, "text_key='cap': has no effect; name a source="),
        ({"source": "folder", "image_key": "a"}, "has no effect; source folder reads none"),
        ({"source": "tar", "text_key": None}, "text_key=None: is no text"),
    ],
)
def test_keys_that_nothing_reads_are_told(settings, told):
    with pytest.raises(ConfigError, match=told):
        suites.own("x", path="x", **settings)


def test_an_own_folder_is_read_as_any_folder_is(tmp_path):
    folder_of(tmp_path / "x" / "train", count=9)
    folder_of(tmp_path / "x" / "val", count=6)
    with pytest.raises(DataError, match="splits, which are no classes: train, val; name the one"):
        opened(suites.own("x", path=str(tmp_path / "x")))
    found = opened(suites.own("x", path=str(tmp_path / "x"), split="val"))
    assert found.keys == CLASSES and found.n == 6 and str(tmp_path / "x" / "val") in found.where
    for source in ("", "folder"):
        own = suites.own("x", path=str(tmp_path / "x"), split="train", source=source)
        assert opened(own).n == 9
    (tmp_path / "x" / "val" / "ant" / "0.txt").write_text("a note")  # no matter where classes are
    assert opened(suites.own("x", path=str(tmp_path / "x" / "val"))).keys == CLASSES
    (tmp_path / "x" / "val" / "dog").mkdir()
    with pytest.raises(DataError, match=r"1 of 4 folders of classes hold no images: dog"):
        opened(suites.own("x", path=str(tmp_path / "x" / "val")))


def test_captions_of_an_image_are_the_same_in_a_suite_and_in_the_loop(tmp_path):
    for i in range(3):
        for name in (f"{i}.jpg", f"copy{i}.jpg"):
            (tmp_path / name).write_bytes(tars.picture(i))
    rows = [f"{i}.jpg,caption {k} of {i}" for k in range(6) for i in range(3)]
    rows[0] = "copy0.jpg,caption 0 of 0"  # another file of the same bytes
    (tmp_path / "rows.csv").write_text("\n".join(["filepath,title", *rows]))
    lists = [
        {"filepath": f"{i}.jpg", "title": [f"caption {k} of {i}" for k in range(6)]}
        for i in range(3)
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, lists)))
    found = []
    for name in ("rows.csv", "lists.jsonl"):
        path = str(tmp_path / name)
        for source in ("", "table"):
            own = opened(suites.own("x", path=path, source=source, n=3))
            assert own.kind == "retrieval" and own.n == 3
            found.append(own.source)
        c = config.defaults()
        c.evals.x = config.evaluator("retrieval", source="table", path=path)
        found.append(build_data.evaluation_source(c, "x"))
    expected, owners = eval_batches.eval_caption_list(found[-1])
    for each in found:
        texts, text_image = eval_batches.eval_caption_list(each)
        assert texts == expected and text_image.tolist() == owners.tolist()
        assert [each[i]["image"] for i in range(3)] == [tars.picture(i) for i in range(3)]
    (tmp_path / "flickr30k").mkdir()
    (tmp_path / "rows.csv").rename(tmp_path / "flickr30k" / "test.csv")
    for file in tmp_path.glob("*.jpg"):
        file.rename(tmp_path / "flickr30k" / file.name)
    sizes = {"open_clip": suites.Expected(4, "mean_recall_at_1")}
    entry = dataclasses.replace(suites.get("flickr30k"), protocols=sizes)
    flickr = opened(entry, tmp_path).source  # published sizes count files
    assert [len(flickr.caption(i)) for i in range(4)] == [1, 5, 5, 5]
    assert "of 2 images only the first 5 captions count, as published" in flickr.notes


def prompts_of(entry, source, keys, **options):
    made, origin = class_names.of_set(entry, source=source, keys=keys, **options)
    return dict(zip(made.keys, made.names, strict=True)), made.templates, origin


def test_prompts_of_the_data_folder(tmp_path):
    found = opened(PETS, webdataset(tmp_path / "pets").parent)
    names, templates, origin = prompts_of(PETS, found.source, found.keys)
    assert names == {"0": ("ant",), "1": ("bee",), "2": ("cat",)}
    assert templates == ("a {}.",) and origin == "data"


def test_prompts_of_the_users_files(tmp_path):
    found = opened(PETS, folder_of(tmp_path / "pets" / "test").parent.parent)
    given = tmp_path / "prompts"
    given.mkdir()
    (given / "classnames.txt").write_text("bee\tbee\tbumblebee\nant\tant\ncat\tcat\n")
    (given / "templates.txt").write_text("the {c}\n")
    names, templates, origin = prompts_of(PETS, found.source, found.keys, own=str(given))
    assert names["bee"] == ("bee", "bumblebee") and templates == ("the {}",)
    assert origin == str(given)
    (given / "classnames.txt").write_text("Cat\nANT\nbee\n")  # joined by name, in any order
    assert prompts_of(PETS, found.source, found.keys, own=str(given))[0]["ant"] == ("ANT",)
    (given / "classnames.txt").write_text("cat\nant\nbe\n")
    with pytest.raises(ConfigError, match=r"without names: 1 \('bee'\), not in the data: 1 \('be'"):
        prompts_of(PETS, found.source, found.keys, own=str(given))


WHEEL = {
    "version": "1.6.2",
    "names": {"pets": ["Cat", "ANT", "b.e.e"]},
    "templates": {"pets": ["a {c}, a type of pet."]},
}


@pytest.fixture
def wheel(monkeypatch):
    monkeypatch.setattr(class_names, "wheel_content", lambda: WHEEL)


def test_prompts_of_the_wheel_are_joined_by_name(tmp_path, wheel):
    found = opened(PETS, folder_of(tmp_path / "pets" / "test").parent.parent)
    names, templates, origin = prompts_of(PETS, found.source, found.keys)
    assert names == {"ant": ("ANT",), "bee": ("b.e.e",), "cat": ("Cat",)}
    assert templates == ("a {}, a type of pet.",) and "clip-benchmark 1.6.2" in origin


def test_names_that_do_not_fit_the_keys_are_told(tmp_path, wheel, monkeypatch):
    found = opened(PETS, folder_of(tmp_path / "pets" / "test").parent.parent)
    monkeypatch.setitem(WHEEL["names"], "pets", ["Cat", "ant", "owl"])
    with pytest.raises(ConfigError, match=r"without names: 1 \('bee'\), not in the data: 1 \('owl"):
        prompts_of(PETS, found.source, found.keys)


def test_keys_that_are_no_words_need_names(tmp_path, monkeypatch):
    monkeypatch.setattr(class_names, "wheel_content", lambda: None)
    found = opened(PETS, folder_of(tmp_path / "pets" / "test").parent.parent)
    names, templates, origin = prompts_of(PETS, found.source, found.keys)
    assert (
        names["bee"] == ("bee",) and "label keys" in origin and templates == ("a photo of a {}.",)
    )
    wnids = dataclasses.replace(PETS, keys_are_words=False)
    with pytest.raises(ConfigError, match=r"are no words; install names \(pip install --no-deps"):
        prompts_of(wnids, found.source, found.keys)
    with pytest.raises(ConfigError, match="are no words"):
        prompts_of(PETS, found.source, ("0", "1", "2"))


def test_words():
    assert class_names.words("american_bulldog") == "american bulldog"
    assert class_names.words("/a/apartment_building/outdoor") == "apartment building outdoor"


def test_targets_of_several_classes(tmp_path):
    samples = [{"jpg": tars.picture(i), "npy": webdatasets.npy([i, 1, 0])} for i in range(3)]
    webdatasets.write(tmp_path / "x", samples, names=CLASSES, kind="multilabel")
    found = opened(suites.own("x", path=str(tmp_path / "x")))
    positive, ignored = found.targets
    assert found.kind == "multilabel" and found.metric == "mean_average_precision"
    np.testing.assert_array_equal(positive, [[0, 1, 0], [1, 1, 0], [1, 1, 0]])
    assert not ignored.any()
