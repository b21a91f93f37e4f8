"""CSV, TSV and JSON lines that name image files."""

import itertools
import json
import os
import pickle
import re
import tracemalloc

import numpy as np
import pytest

from clipjax.common.exits import ConfigError, DataError
from clipjax.curation import check
from clipjax.data import examples, images, loader
from clipjax.data.source import BadRecord
from clipjax.data.sources.table import open_tables
from clipjax.training import bad_records
from tests.data import fakes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(4):
        (tmp_path / "images" / f"{index}.jpg").write_bytes(picture(index))
    return tmp_path


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def expect(source, texts):
    for index, text in enumerate(texts):
        found = source[index]
        assert (found["image"], found["text"]) == (picture(index), text)
        assert source.caption(index) == text


def test_csv_with_quotes_and_line_breaks(folder):
    texts = ['a "quoted", cat', "two\nlines", "né", ""]
    rows = "".join(
        f'"images/{i}.jpg","{text.replace(chr(34), chr(34) * 2)}"\n' for i, text in enumerate(texts)
    )
    (folder / "a.csv").write_text(f"\ufefffilepath,title\n{rows}\n")
    source = open_tables(folder)
    assert (len(source), source.key(2)) == (4, "a.csv/2")
    expect(source, texts)
    expect(pickle.loads(pickle.dumps(source)), texts)  # noqa: S301 (our own bytes)


def test_tsv_and_absolute_paths(folder):
    rows = "".join(f"{folder}/images/{i}.jpg\ttext {i}\tx\n" for i in range(4))
    (folder / "a.tsv").write_text(f"filepath\ttitle\tother\n{rows.rstrip()}")
    expect(open_tables(folder / "a.tsv"), [f"text {i}" for i in range(4)])


def test_images_of_other_formats_are_read(folder):
    rows = ["filepath,title"]
    for form in ("PPM", "BMP", "TIFF", "GIF", "AVIF"):
        picture = fakes.photo(1, width=24, height=20)
        (folder / f"images/x.{form.lower()}").write_bytes(fakes.encode(picture, form))
        rows.append(f"images/x.{form.lower()},a text")
    (folder / "a.csv").write_text("\n".join(rows))
    source = open_tables(folder / "a.csv")
    for index in range(5):
        assert images.probe(source[index]["image"]) == ((24, 20), "PNG")


def test_json_lines(folder):
    lines = [json.dumps({"file_name": f"images/{i}.jpg", "text": [f"a{i}", "b"]}) for i in range(4)]
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n\n")
    source = open_tables(folder / "m.jsonl")
    expect(source, [[f"a{i}", "b"] for i in range(4)])


def test_words_for_nothing_are_captions(folder):
    texts = ["NA", "null", "None", "nan"]
    rows = "".join(f"images/{i}.jpg,{text}\n" for i, text in enumerate(texts))
    (folder / "a.csv").write_text(f"filepath,title\n{rows}")
    expect(open_tables(folder / "a.csv"), texts)


ROWS = {  # row → what is said of it, each row on the line after the one before
    "images/0.jpg,a": "",
    "images/1.jpg": r"wrong number of fields (line 3: 1 where the head has 2)",
    "images/1.jpg,a red, fox": r"wrong number of fields (line 4: 3 where the head has 2)",
    'images/1.jpg,"a': r"broken quotes (line 5: a quote is never closed)",
    "images/9.jpg,b": r"no such file (line 6: images/9.jpg, looked in FOLDER)",
    ",c": r"no image path (line 7: '')",
    "https://a.b/c.jpg,d": r"no such file (line 8: https://a.b/c.jpg: an address; fetch the images"
    " first, as img2dataset does)",
    "images,e": r"unreadable file (line 9: images, looked in FOLDER: FOLDER/images is not a file)",
    r"images\1.jpg,f": "no such file (line 10: images\\1.jpg, looked in FOLDER; write / where it"
    " has \\)",
}


def test_what_is_wrong_with_a_row_is_told_with_its_line(folder):
    (folder / "a.csv").write_text("filepath,title\n" + "\n".join(ROWS))
    source = open_tables(folder / "a.csv")
    assert len(source) == len(ROWS)
    for index, told in enumerate(ROWS.values()):
        try:
            message = source.read(index) and ""
        except BadRecord as error:
            message = error.message
        assert message == told.replace("FOLDER", str(folder))
    for _ in range(2):  # the second time from the index that was kept
        found, _ = check.check(open_tables(folder / "a.csv"), limit=0, num_workers=0, show=False)
        summed = check.summary(found, source=source)
        assert summed["broken by reason"] == {
            "wrong number of fields": 2,
            "no such file": 3,
            "broken quotes": 1,
            "no image path": 1,
            "unreadable file": 1,
        }
        assert summed["broken, first"][0] == ("a.csv/1", ROWS["images/1.jpg"])


def test_training_names_reason_line_and_key(folder, caplog):
    """In the log, and in the error that ends a run."""
    (folder / "a.csv").write_text("filepath,title\n" + "images/0.jpg,a\nb.jpg,b\n" * 8)
    stream = examples.TrainExamples(
        open_tables(folder / "a.csv"), tokenizer=fakes.FakeTokenizer(), image_size=16, seed=0
    )
    counter = bad_records.BadRecords(max_fraction=0.3)
    told = rf"no such file \(line \d+: b.jpg, looked in {folder}\)"
    with pytest.raises(DataError, match=rf"the last was a.csv/\d+ \({told}\); .* no such file$"):
        for first in itertools.count(0, 16):
            counter.count(
                loader.make_rows(0, examples=stream, start=first, batch_size=16, rows=np.arange(16))
            )
    assert re.search(rf"record a.csv/\d+ replaced: {told}", caplog.text)


def test_json_lines_of_any_make(folder):
    rows = [
        '{"file_name": "images/0.jpg", "text": "a\\u2028b"}',
        "  ",
        '{"file_name": "images/1.jpg", "text": ["a", null, "", "b"]}\r',
        '{"text": "é\u2028ü", "file_name": "images/2.jpg"}',
        '{"file_name": "images/3.jpg", "text": 7}',
        "{",
        ' "file_name": "images/3.jpg", "text": "over two lines"}',
    ]
    (folder / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode() + b'\n{"\xe9')
    source = open_tables(folder / "m.jsonl")
    expect(source, ["a\u2028b", ["a", "", "b"], "é\u2028ü"])
    messages = []
    for index in range(3, len(source)):
        with pytest.raises(BadRecord) as caught:
            source[index]
        messages.append(caught.value.message)
    assert messages == [
        "caption is no text (line 5: int 7)",
        "the line is no JSON (line 6: Expecting property name enclosed in double quotes)",
        "the line is no JSON (line 7: Extra data)",
        "no UTF-8 (line 8: byte 0xe9; save the table as UTF-8)",
    ]


def test_a_line_without_end_takes_little_memory(folder):
    with open(folder / "a.csv", "wb") as file:
        file.write(b"filepath,title\nimages/0.jpg,")
        file.truncate(1 << 28)  # zeros
        file.seek(0, os.SEEK_END)
        file.write(b"\nimages/1.jpg,b\n")
    tracemalloc.start()
    source = open_tables(folder / "a.csv")
    with pytest.raises(BadRecord, match="row too long"):
        source[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source[1]["text"] == "b" and peak < 30_000_000


def test_bad_rows_are_bad_records(folder):
    lines = ['{"image": "images/0.jpg", "text": "t"}', "[1", "[1]", '{"image": 3, "text": "t"}']
    lines += ['{"image": "none.jpg", "text": "t"}', '{"image": "images/0.jpg", "text": {"a": 1}}']
    (folder / "m.jsonl").write_text("\n".join(lines))
    source = open_tables(folder / "m.jsonl")
    assert len(source) == 6 and source[0]["text"] == "t"
    for index in range(1, 6):
        with pytest.raises((ValueError, OSError)):
            source[index]


def test_a_column_of_which_there_are_two_is_refused(folder):
    (folder / "a.csv").write_text("filepath,title,title,x,x\nimages/0.jpg,a,b,c,d\n")
    with pytest.raises(DataError, match=r"a.csv: its head names column 'title' 2 times"):
        open_tables(folder / "a.csv")
    (folder / "b.csv").write_text("filepath,title,x,x\nimages/0.jpg,a,c,d\n")
    assert open_tables(folder / "b.csv").caption(0) == "a"


def test_numbers_that_python_refuses_are_bad_records(folder):
    (folder / "a.jsonl").write_text(
        '{"n": %s}\n{"path": "images/0.jpg", "text": "a"}' % ("9" * 5000)
    )
    source = open_tables(folder / "a.jsonl")
    assert source.caption(1) == "a"
    with pytest.raises(BadRecord, match="the line is no JSON"):
        source[0]


def test_refusals(folder):
    (folder / "a.csv").write_text("where,what\nimages/0.jpg,text\n")
    with pytest.raises(DataError, match=r"0 of the first 1 record .*keys seen: where, what"):
        open_tables(folder / "a.csv")
    source = open_tables(folder / "a.csv", image_key="where", text_key="what")
    assert source[0]["text"] == "text"
    (folder / "a.xml").write_text("")
    with pytest.raises(ConfigError, match="has none of the endings"):
        open_tables(folder / "a.xml")
    with pytest.raises(ConfigError, match="is remote"):
        open_tables("gs://bucket/a.csv")
