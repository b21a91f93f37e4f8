"""Several captions of one image: the same images and captions however a file puts them."""

import json
import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import eval_batches, same_image
from clipjax.data.source import Spread
from clipjax.data.sources import get
from tests.data import tars
from tests.data.fakes import encode, photo

IMAGES = 6
CAPTIONS = {i: [f"image {i} seen in way {k}" for k in range(2 + i % 3)] for i in range(IMAGES)}


def picture(index):
    return encode(photo(index, width=20, height=16))


def rows(order):
    """(image, caption) of each row: images one after the other, or in turn."""
    pairs = [(i, text) for i, texts in CAPTIONS.items() for text in texts]
    turn = {pair: CAPTIONS[pair[0]].index(pair[1]) for pair in pairs}
    return pairs if order == "in a row" else sorted(pairs, key=turn.get)


def written(form, folder, order):
    """A source of one row for each caption, and whether its rows name files."""
    pairs = rows(order)
    (folder / "img").mkdir()
    for number, (i, _) in enumerate(pairs):
        (folder / f"img/{i}.jpg").write_bytes(picture(i))
        (folder / f"img/copy{number}.jpg").write_bytes(picture(i))
    texts = [text for _, text in pairs]
    if form in ("csv", "tsv", "jsonl"):
        names = [f"img/{i}.jpg" for i, _ in pairs]
        if form == "tsv":  # one file, spelt in two ways
            names[::2] = [f"./img/../{name}" for name in names[::2]]
        elif form == "jsonl":  # every row has a file of its own
            names = [f"img/copy{number}.jpg" for number in range(len(pairs))]
        pattern = {"csv": "{},{}", "tsv": "{}\t{}", "jsonl": '{{"filepath": "{}", "title": "{}"}}'}
        lines = [pattern[form].format(*row) for row in zip(names, texts, strict=True)]
        head = [] if form == "jsonl" else [pattern[form].format("filepath", "title")]
        (folder / f"rows.{form}").write_text("\n".join([*head, *lines]))
        return get("table")(str(folder / f"rows.{form}"))
    if form == "tar":
        content = [
            (f"{n:04d}.{ending}", data)
            for n, (i, text) in enumerate(pairs)
            for ending, data in (("jpg", picture(i)), ("txt", text.encode()))
        ]
        tars.write(folder / "rows.tar", content)
        return get("tar")(str(folder / "rows.tar"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"jpg": [picture(i) for i, _ in pairs], "txt": texts})
    pq.write_table(table, folder / "rows.parquet")
    return get("parquet")(str(folder / "rows.parquet"))


@pytest.mark.parametrize("order", ["in a row", "in turn"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "tar", "parquet"])
def test_rows_of_an_image_are_its_captions_in_every_format(tmp_path, form, order):
    source = written(form, tmp_path, order)
    found = same_image.by_image(source)
    assert len(found) == IMAGES and len(source) == sum(map(len, CAPTIONS.values()))
    assert [found.caption(i) for i in range(IMAGES)] == list(CAPTIONS.values())
    assert [found[i]["image"] for i in range(IMAGES)] == [picture(i) for i in range(IMAGES)]
    assert found[2]["text"] == CAPTIONS[2] and found.key(0) == source.key(0)
    assert found.notes == [f"{len(source)} records are captions of {IMAGES} images"]
    assert found.fingerprint != source.fingerprint
    texts, text_image = eval_batches.eval_caption_list(found)
    assert texts == [text for each in CAPTIONS.values() for text in each]
    assert np.bincount(text_image).tolist() == [len(each) for each in CAPTIONS.values()]
    assert pickle.loads(pickle.dumps(found)).caption(3) == CAPTIONS[3]  # noqa: S301 - our own
    for outside in (-1, IMAGES):
        with pytest.raises(IndexError):
            found[outside]


def test_images_that_differ_are_left_as_they_are(tmp_path):
    lines = [f"img/{i}.jpg,text {i}" for i in range(4)]
    written("tar", tmp_path, "in a row")
    (tmp_path / "x.csv").write_text("\n".join(["filepath,title", *lines]))
    source = get("table")(str(tmp_path / "x.csv"))
    assert same_image.by_image(source) is source


def test_lists_of_captions_are_joined_too(tmp_path):
    written("tar", tmp_path, "in a row")
    lines = [{"image": "img/0.jpg", "text": ["a", "b"]}, {"image": "img/1.jpg", "text": "c"}]
    lines += [{"image": "img/0.jpg", "text": ["d", " "]}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = same_image.by_image(get("table")(str(tmp_path / "x.jsonl")))
    assert [found.caption(i) for i in range(2)] == [["a", "b", "d"], ["c"]]


def test_without_contents_only_one_file_is_one_image(tmp_path):
    source = written("jsonl", tmp_path, "in a row")
    assert same_image.by_image(source, contents=False) is source
    (tmp_path / "img/0.jpg").unlink()  # no image is read
    lines = ["filepath,title", "img/0.jpg,a", "img/1.jpg,b", "img/0.jpg,c"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    found = same_image.by_image(get("table")(str(tmp_path / "x.csv")), contents=False)
    assert [found.caption(i) for i in range(2)] == [["a", "c"], ["b"]]


def test_each_file_is_read_once(tmp_path, monkeypatch):
    source = written("csv", tmp_path, "in turn")
    read = []
    inner = type(source).__getitem__
    monkeypatch.setattr(type(source), "__getitem__", lambda s, i: read.append(i) or inner(s, i))
    same_image.numbers(source)
    assert len(read) == IMAGES


def test_images_that_cannot_be_read_are_like_no_other_and_named_later(tmp_path):
    written("tar", tmp_path, "in a row")
    lines = ["filepath,title", "none.jpg,a", "img/1.jpg,b", "gone.jpg,c"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    found = same_image.by_image(get("table")(str(tmp_path / "x.csv")))
    assert len(found) == 3
    with pytest.raises(DataError, match=r"record x.csv/0 is unusable \(no such file"):
        eval_batches.load_eval_image(0, source=found, size=16)


@pytest.mark.parametrize("limit", [0, 1, 4, 100])
def test_a_limit_counts_images_and_keeps_their_captions(tmp_path, monkeypatch, limit):
    source = written("csv", tmp_path, "in turn")
    some = same_image.some_images(source, limit=limit)
    taken = [some.caption(i) for i in range(len(some))]
    assert len(some) == min(limit or IMAGES, IMAGES)
    assert all(texts in CAPTIONS.values() for texts in taken)
    monkeypatch.setattr(same_image, "COMPARED", 10)  # of more records only the chosen are compared
    few = same_image.some_images(source, limit=5)
    assert len(few) <= 5 and isinstance(getattr(few, "source", few), Spread | type(few))


def test_a_caption_that_cannot_be_read_names_its_record(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"image": "a.jpg", "text": "a"}\n{"image": "b.jpg", "te')
    source = get("table")(str(tmp_path / "x.jsonl"))
    with pytest.raises(DataError, match=r"record x.jsonl/1 is unusable \(.*no JSON"):
        eval_batches.eval_caption_list(source)
