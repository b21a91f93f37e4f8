"""Folders of images: which files and links are records, classes and captions, and what is named."""

import logging
import os
import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import examples, images
from clipjax.data.sources.folder import Folder
from tests.data.fakes import encode, photo

FORMATS = {
    **{".jpg": "JPEG", ".JPEG": "JPEG", ".jfif": "JPEG", ".PNG": "PNG", ".webp": "WEBP"},
    **{".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM", ".Tif": "TIFF", ".tiff": "TIFF"},
    ".avif": "AVIF",
}


def put(top, *names, text="a text"):
    """Write images, or texts, at these paths below a folder."""
    for number, name in enumerate(names):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = {ending.lower(): f for ending, f in FORMATS.items()}.get(path.suffix.lower())
        if form:
            path.write_bytes(encode(photo(number, width=20, height=16), form))
        else:
            path.write_text(text)
    return top


def link(top, name, to):
    (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / name).symlink_to(to, target_is_directory=True)


def labels_of(source):
    return [source.label(i) for i in range(len(source))]


def test_images_of_every_ending_are_read(tmp_path):
    source = Folder(str(put(tmp_path, *(f"kind{ending}/x{ending}" for ending in FORMATS))))
    assert len(source) == len(source.labels) == len(FORMATS) and source.skipped == {}
    for i in range(len(source)):
        assert images.decode_eval(source[i]["image"], size=16).shape == (16, 16, 3)
        assert images.probe(source[i]["image"])[0] == (20, 16)


@pytest.mark.parametrize("form", ["BMP", "PPM", "TIFF", "GIF", "AVIF"])
def test_other_formats_keep_their_pixels(form):
    from PIL import Image

    data = encode(photo(3, width=40, height=30), form)
    kept = images.from_file(data)
    import io

    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(
        images.decode_eval(kept, size=24), images.prepare_eval(opened, size=24)
    )
    with pytest.raises(images.BadImage, match="not a JPEG, PNG or WebP"):
        images.decode_eval(data, size=24)  # what a shard may hold


def test_files_of_the_usual_formats_and_no_images_stay_as_they_are():
    picture = photo(0, width=20, height=16)
    for data in (encode(picture), encode(picture, "PNG"), encode(picture, "WEBP"), b"", b"<html>"):
        assert images.from_file(data) == data


def test_damage_of_other_formats_is_named(monkeypatch):
    data = encode(photo(0, width=40, height=30), "BMP")
    with pytest.raises(images.BadImage, match="damaged"):
        images.from_file(data[: len(data) // 2])
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(images.BadImage, match="too many pixels"):
        images.from_file(data)


def test_class_folders_and_images_may_be_links(tmp_path):
    put(tmp_path, "set/cat/a.jpg", "elsewhere/fox/a.jpg", "elsewhere/fox/young/b.jpg", "one.jpg")
    link(tmp_path, "set/fox", "../elsewhere/fox")
    link(tmp_path, "set/vulpes", "../elsewhere/fox")  # the same images for another class
    link(tmp_path, "set/cat/b.jpg", "../../one.jpg")
    source = Folder(str(tmp_path / "set"))
    assert source.labels == ("cat", "fox", "vulpes")
    assert labels_of(source) == ["cat", "cat", "fox", "fox", "vulpes", "vulpes"]
    link(tmp_path, "link", "set")
    assert Folder(str(tmp_path / "link")).files == source.files


def test_a_circle_of_links_ends_and_is_named(tmp_path, caplog):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg", "dog/old/c.jpg")
    link(tmp_path, "cat/up", "..")
    link(tmp_path, "dog/old/dog", "..")
    link(tmp_path, "cat/dogs", "../dog")  # another class's images, read for this one too
    source = Folder(str(tmp_path))
    assert labels_of(source) == ["cat"] * 3 + ["dog"] * 2
    assert source.skipped == {"link to a folder that is read already": 3}
    assert "(cat/dogs/old/dog)" in caplog.text


def test_links_that_lead_nowhere_are_named(tmp_path, caplog):
    put(tmp_path, "cat/a.jpg")
    link(tmp_path, "cat/b.jpg", "gone.jpg")
    source = Folder(str(tmp_path))
    assert source.skipped == {"link that leads nowhere": 1} and "cat/b.jpg" in caplog.text
    assert source.fingerprint and len(source) == 1
    link(tmp_path, "cat/c.jpg", "c.jpg")  # to itself
    assert Folder(str(tmp_path)).skipped == {"link that leads nowhere": 2}
    link(tmp_path, "fox", "moved/away")
    with pytest.raises(DataError, match=r"1 of 2 .* no images: fox \(1 link that leads nowhere\)"):
        Folder(str(tmp_path))


def test_hidden_folders_and_files_are_no_classes_and_named(tmp_path, caplog):
    put(tmp_path, "cat/a.jpg", ".git/x.jpg", "__MACOSX/cat/._a.jpg", "cat/._a.jpg", ".DS_Store")
    put(tmp_path, "cat/.ipynb_checkpoints/a-checkpoint.jpg", "dog/b.jpg")
    source = Folder(str(tmp_path))
    assert source.files == ("cat/a.jpg", "dog/b.jpg")
    assert source.skipped == {"hidden": 4}
    assert "left out 4 hidden (.git)" in caplog.text


@pytest.mark.parametrize(
    ("held", "named"),
    [((), "owl (empty)"), (("owl/a.heic", "owl/b.heic"), "owl (2 .heic)")],
)
def test_a_class_without_images_is_refused(tmp_path, held, named):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg", *held)
    (tmp_path / "owl").mkdir(exist_ok=True)
    with pytest.raises(DataError) as error:
        Folder(str(tmp_path))
    assert f"1 of 3 folders of classes hold no images: {named}" in str(error.value)


def test_other_files_are_named_in_one_line(tmp_path, caplog):
    put(tmp_path, "cat/a.jpg", "dog/b.heic", "dog/c.jpg", "README.md", "LICENSE", "dog/c.XML")
    source = Folder(str(tmp_path))
    assert source.skipped == {".heic": 1, ".md": 1, ".xml": 1, "without ending": 1}
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1 and "1 .heic (dog/b.heic)" in lines[0].getMessage()


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match=r"holds no images \(.*\); it holds 2 .tar"):
        Folder(str(put(tmp_path, "00000.tar", "00001.tar")))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"dog: cannot be read \(Permission denied\)"):
        Folder(str(tmp_path))


SPLITS = ("train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/dog/d.jpg", "val/dog/e.jpg")


@pytest.mark.parametrize("more", [(), ("README.md",), (".git/x.jpg",), ("samples/x.jpg",)])
def test_a_split_is_read_by_its_name_and_never_taken_for_a_class(tmp_path, more):
    put(tmp_path, *SPLITS, *more)
    source = Folder(str(tmp_path), split="val")
    assert source.labels == ("cat", "dog") and len(source) == 3
    assert source.top == str(tmp_path / "val") and source.key(0) == "cat/c.jpg"
    for split in ("", "test"):
        with pytest.raises(DataError, match=r"splits, which are no classes: train, val; .*/train"):
            Folder(str(tmp_path), split=split)


@pytest.mark.parametrize("names", [("Train", "Test"), ("train2017", "val2017"), ("training",)])
def test_splits_have_many_names(tmp_path, names):
    put(tmp_path, *(f"{name}/{i}.jpg" for name in names for i in range(2)))
    with pytest.raises(DataError, match="which are no classes"):
        Folder(str(tmp_path), split="test")
    assert len(Folder(str(tmp_path), split=names[0])) == 2


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    put(tmp_path, "bus/a.jpg", "car/b.jpg", "train/c.jpg")
    for split in ("", "train", "test"):
        assert Folder(str(tmp_path), split=split).labels == ("bus", "car", "train")


FILES = ("00000/000000000.jpg", "00000/000000001.jpg", "00001/000000002.png")


def beside(top, ending, files=FILES, text="a red fox in snow"):
    return put(top, *(f"{os.path.splitext(file)[0]}{ending}" for file in files), text=text)


@pytest.mark.parametrize("ending", [".txt", ".caption", ".TXT"])
def test_texts_beside_the_images_are_the_captions(tmp_path, ending):
    put(tmp_path, *FILES)
    names = Folder(str(tmp_path))
    assert names.caption(0) == "00000"
    beside(tmp_path, ending)
    source = Folder(str(tmp_path))
    assert [source[i]["text"] for i in range(3)] == ["a red fox in snow"] * 3
    assert source.skipped == {} and source.fingerprint != names.fingerprint
    assert source.label(2) == "00001"
    by_path = Folder(str(tmp_path), text_key="path")
    assert by_path.caption(2) == "00001" and by_path.fingerprint == names.fingerprint
    assert pickle.loads(pickle.dumps(source)).caption(1) == source.caption(1)  # noqa: S301


def test_texts_beside_some_images_must_be_decided_on(tmp_path):
    put(tmp_path, *FILES)
    beside(tmp_path, ".txt", files=FILES[:2])
    with pytest.raises(DataError) as error:
        Folder(str(tmp_path))
    told = str(error.value)
    assert "2 of 3 images have a .txt beside them (00000/000000000.txt)" in told
    assert "text_key=txt" in told and "text_key=path" in told
    source = Folder(str(tmp_path), text_key="txt")
    assert source.files == FILES[:2] and source.caption(1) == "a red fox in snow"
    assert source.skipped == {"image without text": 1}
    assert len(Folder(str(tmp_path), text_key="path")) == 3


def test_fields_of_a_json_beside_are_named_and_then_read(tmp_path):
    put(tmp_path, *FILES)
    beside(tmp_path, ".json", text='{"caption": ["a fox", "snow"], "title": "fox.jpg"}')
    with pytest.raises(DataError, match=r"3 of 3 images have a .json .*text_key=FIELD"):
        Folder(str(tmp_path))
    assert Folder(str(tmp_path), text_key="caption").caption(0) == ["a fox", "snow"]
    both = Folder(str(tmp_path), text_key="caption,title").caption(0)
    assert both == {"caption": ["a fox", "snow"], "title": "fox.jpg"}
    beside(tmp_path, ".txt")
    assert Folder(str(tmp_path)).caption(0) == "a red fox in snow"  # as img2dataset writes both
    (tmp_path / "00000/000000000.json").write_text("[]")
    with pytest.raises(ValueError, match="no fields"):
        _ = Folder(str(tmp_path), text_key="caption")[0]
    with pytest.raises(DataError, match=r"none of 3 images has what text_key=.cap names"):
        Folder(str(tmp_path), text_key=".cap")


def test_a_table_beside_class_folders_is_no_caption(tmp_path):
    source = Folder(str(put(tmp_path, "cat/a.jpg", "dog/b.jpg", "labels.csv")))
    assert source.caption(0) == "cat" and source.skipped == {".csv": 1}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "captions.csv"])
def test_a_table_of_captions_in_the_folder_is_not_passed_over(tmp_path, name):
    put(tmp_path, "a.jpg", "b.jpg")
    rows = {"csv": "file_name,text\na.jpg,a fox\nb.jpg,an owl\n"}
    rows["jsonl"] = '{"file_name": "a.jpg", "text": "a fox"}\n'
    (tmp_path / name).write_text(rows[name.split(".")[1]])
    with pytest.raises(DataError, match=rf"source=table with path={tmp_path / name} reads them"):
        Folder(str(tmp_path))
    assert Folder(str(tmp_path), text_key="path").caption(0) == "a"
    from clipjax.data.sources.table import open_tables

    assert open_tables(str(tmp_path / name))[0]["text"] == "a fox"  # the advice works


def test_names_that_are_no_utf8_are_keys_all_the_same(tmp_path):
    put(tmp_path, "plain.jpg")
    name = os.fsdecode(b"caf\xe9.jpg")
    os.rename(tmp_path / "plain.jpg", tmp_path / name)
    source = Folder(str(tmp_path))
    assert source[0]["key"] == r"caf\udce9.jpg"
    assert examples.record_id("folder", key=source.files[0]) is not None
    put(tmp_path, f"classes/{os.fsdecode(bytes([0xE9]))}/a.jpg", "classes/café/b.jpg")
    with pytest.raises(DataError, match=r"the class folder '\\udce9' has a name that is no UTF-8"):
        Folder(str(tmp_path / "classes"))


@pytest.mark.interop
def test_classes_and_images_are_those_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    put(tmp_path, "d/cat/a.jpg", "d/dog/old/B.JPG", "d/dog/c.ppm", "d/Owl/d.tiff", "far/e.bmp")
    link(tmp_path, "d/fox", "../far")
    ours, theirs = Folder(str(tmp_path / "d")), ImageFolder(str(tmp_path / "d"))
    assert list(ours.labels) == theirs.classes
    listed = {(os.path.relpath(path, tmp_path / "d"), theirs.classes[c]) for path, c in theirs.imgs}
    assert {(file, file.split("/")[0]) for file in ours.files} == listed
    (tmp_path / "d" / "empty").mkdir()
    for read in (Folder, ImageFolder):
        with pytest.raises((DataError, FileNotFoundError), match="empty"):
            read(str(tmp_path / "d"))
