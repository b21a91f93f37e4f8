"""Data as other programs leave them: read as they are meant, or refused with what to do."""

import gzip
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipjax import api
from clipjax.common import git_lfs
from clipjax.common.exits import CleanExit
from clipjax.data import images, sources
from clipjax.data.source import BadRecord
from clipjax.data.sources import tf_example
from clipjax.data.sources.folder import Folder
from clipjax.data.sources.parquet import open_parquet
from clipjax.data.sources.table import open_tables
from clipjax.data.sources.tar import open_tars
from clipjax.data.sources.tfrecord import open_tfrecords
from tests.data import fakes, tars

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def said(call, *arguments, **options):
    with pytest.raises(CleanExit) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_folder_that_img2dataset_leaves_is_one_of_tars(tmp_path):
    """Beside each tar there is a table of addresses and outcomes, and counts."""
    for shard in ("00000", "00001"):
        tars.write(tmp_path / f"{shard}.tar", list(tars.pairs(3, start=int(shard) * 3)))
        rows = {"url": ["http://x/1.jpg"], "caption": ["a dog"], "status": ["success"]}
        pq.write_table(pa.table(rows), tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text(json.dumps({"count": 3}))
    assert sources.by_content(str(tmp_path)) == ["tar"]
    assert len(open_tars(str(tmp_path))) == 6
    pq.write_table(pa.table(rows), tmp_path / "another.parquet")
    assert sources.by_content(str(tmp_path)) == ["parquet", "tar"], "its own name: asked for"


@pytest.mark.parametrize(
    "caption",
    [
        pa.array(["a dog", "a cat", "a dog"]).dictionary_encode(),
        pa.array(["a dog", "a cat", "a dog"], pa.large_string()),
        pa.array([b"a dog", b"a cat", b"a dog"]),
        pa.array([["a dog"], ["a cat"], ["a dog"]], pa.large_list(pa.large_string())),
    ],
    ids=["dictionary", "large", "bytes", "large list"],
)
def test_columns_of_any_type_that_holds_text(caption, tmp_path):
    pictures = [{"bytes": tars.picture(i), "path": f"{i}.jpg"} for i in range(3)]
    pq.write_table(pa.table({"image": pictures, "caption": caption}), tmp_path / "a.parquet")
    texts = [open_parquet(tmp_path / "a.parquet").caption(i) for i in range(3)]
    assert [text[0] if isinstance(text, list) else text for text in texts] == [
        *("a dog", "a cat", "a dog")
    ]


@pytest.mark.parametrize("flat", [False, True])
def test_a_field_within_a_column_is_a_text_by_its_name(flat, tmp_path):
    """It is none unasked, and the error lists it; with a null in it, or in its place."""
    held = [{"caption": "a dog", "id": 1}, None, {"caption": None, "id": 3}, {"caption": "a cat"}]
    pictures = [{"bytes": tars.picture(i), "path": f"{i}.jpg"} for i in range(4)]
    table = pa.table({"image": pictures, "annotation": held})
    pq.write_table(table.flatten() if flat else table, tmp_path / "a.parquet")
    options = {"image_key": "image.bytes" if flat else "image"}
    told = said(open_parquet, tmp_path / "a.parquet", **options)
    assert "annotation.caption, annotation.id" in told and flat == ("image.path" in told)
    source = open_parquet(tmp_path / "a.parquet", text_key="annotation.caption", **options)
    assert [source.caption(i) for i in range(len(source))] == ["a dog", "a cat"]
    assert source.skipped == {"rows without text": 2}
    assert source[1]["image"] == pictures[3]["bytes"]


@pytest.mark.parametrize("held", [{"caption": "a dog", "id": 1}, [{"caption": "a dog"}]])
def test_a_text_with_something_beside_it_says_to_write_it_alone(held, tmp_path):
    rows = {"image": [tars.picture(0)], "caption": [held]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "0.jpg", "caption": held}))
    entries = [("0.jpg", tars.picture(0)), ("0.json", json.dumps({"caption": held}).encode())]
    tar = open_tars(tars.write(tmp_path / "a.tar", entries), text_key="caption")
    for source in (open_parquet(tmp_path / "a.parquet"), open_tables(tmp_path / "a.jsonl"), tar):
        with pytest.raises(BadRecord, match=r"caption is no text .*dict, write its text alone: "):
            source.caption(0)


def test_sequence_examples_are_named_and_not_mistaken(tmp_path):
    """Their context is read as an Example; what lies in their lists is not."""
    features = {"image": [tars.picture(0)], "caption": [b"a dog"]}
    lists = b"\x12\x02\x0a\x00"  # field 2, an empty entry
    for name, context in (("whole", features), ("part", {"image": features["image"]})):
        record = tf_example.encode(context) + lists
        fakes.write_tfrecord(tmp_path / f"{name}.tfrecord", [record])
    assert open_tfrecords(tmp_path / "whole.tfrecord").caption(0) == "a dog"
    told = said(open_tfrecords, tmp_path / "part.tfrecord")
    assert told.endswith("write image and text as features of tf.train.Examples")


@pytest.mark.parametrize("name", ["url", "URL", "image_url", "img_urls"])
def test_a_list_of_addresses_is_not_yet_data(name, tmp_path):
    rows = {name: ["http://x/1.jpg"], "caption": ["a dog"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(f"{name},caption\nhttp://x/1.jpg,a dog\n")
    told = f"{name} holds addresses: fetch the images first, as img2dataset does"
    assert told in said(open_parquet, tmp_path / "a.parquet")
    assert told in said(open_tables, tmp_path / "a.csv")


def test_an_address_beside_an_image_is_no_matter(tmp_path):
    rows = {"url": ["http://x/1.jpg"], "jpg": [tars.picture(1)]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert "addresses" not in said(open_parquet, tmp_path / "a.parquet")


def test_members_that_are_compressed_or_hold_lists_are_named(tmp_path):
    packed = [("a.jpg", tars.picture(1)), ("a.txt.gz", gzip.compress(b"a dog"))]
    told = said(open_tars, tars.write(tmp_path / "packed.tar", packed))
    assert "txt.gz is compressed; write it as it is" in told and "text_key" not in told
    listed = json.dumps([{"caption": "a dog"}]).encode()
    entries = [("a.jpg", tars.picture(1)), ("a.json", listed)]
    path = tars.write(tmp_path / "listed.tar", entries)
    assert "or to a field of the .json" in said(open_tars, path)
    assert "fields seen: none; the first: " in said(open_tars, path, text_key="caption")


def test_commands_are_not_run(tmp_path):
    for path in ("pipe:cat a.tar", "pipe:aws s3 cp s3://bucket/{000..100}.tar -"):
        assert "commands are not run; name the files" in said(open_tars, path)


@pytest.mark.parametrize(
    ("opened", "name"),
    [
        (open_tars, "a.tar"),
        (open_parquet, "a.parquet"),
        (open_tfrecords, "a.tfrecord"),
        (open_tables, "a.csv"),
        (open_tables, "a.jsonl"),
    ],
)
def test_shards_that_git_lfs_has_not_fetched(opened, name, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    told = said(opened, str(tmp_path / name))
    assert told.endswith(f"{name}: {git_lfs.FETCH}")


def test_an_image_that_git_lfs_has_not_fetched():
    with pytest.raises(BadRecord, match=git_lfs.FETCH):
        images.probe(POINTER)


def encoded(pixels, form):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_known_range_are_no_picture(dtype):
    """32 bits: Pillow would make them black or white without a word."""
    pixels = np.linspace(0, 1000 if dtype == np.int32 else 1, 32 * 40).reshape(32, 40)
    with pytest.raises(BadRecord, match=r"no decoder for this image .*no known range"):
        images.from_file(encoded(pixels.astype(dtype), "TIFF"))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(form):
    pixels = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    data = images.from_file(encoded(pixels, form))
    found = images.decode_eval(data, size=32)
    np.testing.assert_array_equal(found[..., 0], pixels >> 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_file_is_the_same_image_to_load_and_in_a_folder(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(encoded(pixels, form))
    in_folder = images.decode_eval(Folder(str(tmp_path))[0]["image"], size=32)
    np.testing.assert_array_equal(api.prepare(path, size=32), in_folder)


def test_a_file_that_is_no_picture_has_the_same_reason_to_load(tmp_path):
    (tmp_path / "a.tif").write_bytes(encoded(np.zeros((32, 40), np.float32), "TIFF"))
    with pytest.raises(ValueError, match=r"a\.tif: no decoder for this image .*no known range"):
        api.prepare(tmp_path / "a.tif", size=32)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b'[{"image": "0.jpg"}]', "jq -c"),
        ("a.json", b'\xef\xbb\xbf\n [{"image": "0.jpg"}]', "jq -c"),
        ("a.json", b'{"images": [], "annotations": []}', "an object a line, with the path of an"),
        ("a.arrow", b"ARROW1", "to_parquet"),
        ("a.h5", b"\x89HDF", "tar shards"),
        ("a.CSV.GZ", b"\x1f\x8b", "uncompress it"),
        ("a.something", b"", ""),
    ],
)
def test_what_no_source_reads_comes_with_a_remedy(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    remedy = sources.remedy(str(tmp_path / name))
    assert told in remedy and bool(told) == bool(remedy)
    assert ("jq" in remedy) == ("jq" in told)


def test_a_folder_of_datasets_says_how_it_is_written_again(tmp_path):
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    (tmp_path / "state.json").write_text("{}")
    assert "load_from_disk(FOLDER).to_parquet" in said(lambda: len(Folder(str(tmp_path))))


def test_data_of_another_source_say_which_reads_them(tmp_path):
    """Files and folders of each kind, given to each source that does not read them."""
    picture = tars.picture(0)
    tars.write(tmp_path / "tar" / "0.tar", [("0.jpg", picture), ("0.txt", b"a dog")])
    for name in ("parquet", "table", "tfrecord", "arrow"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"jpg": [picture], "txt": ["a dog"]}), tmp_path / "parquet/0.parquet")
    (tmp_path / "table/0.csv").write_text("filepath,title\n0.jpg,a dog\n")
    record = tf_example.encode({"jpg": [picture], "txt": [b"a dog"]})
    fakes.write_tfrecord(tmp_path / "tfrecord/0.tfrecord", [record])
    (tmp_path / "arrow/0.arrow").write_bytes(b"ARROW1")
    opened = {"tar": open_tars, "parquet": open_parquet, "table": open_tables}
    opened |= {"tfrecord": open_tfrecords, "folder": lambda path: len(Folder(path))}
    for name, call in opened.items():
        for held in sorted({"tar", "parquet", "table", "tfrecord", "arrow"} - {name}):
            remedy = f"; source {held} reads " if held != "arrow" else f"; {sources.ARROW}"
            folder = tmp_path / held
            assert remedy in said(call, str(folder)), (name, held)
            if name != "folder":
                told = said(call, str(next(folder.glob(f"0.{'csv' if held == 'table' else held}"))))
                assert remedy in told and "write it again" not in told, (name, held)


def test_shards_one_folder_below_are_named(tmp_path):
    tars.write(tmp_path / "test" / "0.tar", list(tars.pairs(2)))
    (tmp_path / "classnames.txt").write_text("cat")
    told = said(open_tars, str(tmp_path))
    assert told.endswith(f"; name the folder below, {tmp_path / 'test'}")
    assert len(open_tars(str(tmp_path / "test"))) == 2
    told = said(lambda: len(Folder(str(tmp_path))))
    assert told.endswith(f"; source tar reads what {tmp_path / 'test'} holds")


def test_links_in_a_circle_end(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(tars.picture(0))
    os.symlink(tmp_path, tmp_path / "cat" / "all")
    assert len(Folder(str(tmp_path))) == 2


@pytest.mark.parametrize("name", ["my data [1] 100% 'ü' {x}", "a, b", "~tilde", "$HOME", "#1 ?"])
def test_a_folder_of_any_name(name, tmp_path):
    path = tars.write(tmp_path / name / f"{name}.tar", list(tars.pairs(2)))
    assert len(open_tars(path)) == len(open_tars(str(tmp_path / name))) == 2
