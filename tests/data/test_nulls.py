"""Rows without image or text are left out before training; all else stays where it was."""

import json
import pickle

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.curation import index
from clipjax.data import order
from clipjax.data.source import BadRecord
from clipjax.data.sources import sharded, tf_example, tfrecord
from clipjax.data.sources.parquet import open_parquet
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.table import open_tables
from clipjax.data.sources.tar import open_tars
from clipjax.data.sources.tfrecord import open_tfrecords
from tests.data import fakes, tars

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

ROWS = 20
NO_IMAGE, NO_TEXT = (3, 4, 11), (4, 7, 19)
KEPT = [row for row in range(ROWS) if row not in (*NO_IMAGE, *NO_TEXT)]
COUNTED = {"rows without image": 3, "rows without text": 2}  # row 4 has neither


def picture(row):
    return fakes.encode(fakes.photo(row, width=24, height=20))


def columns():
    return {
        "image": [None if row in NO_IMAGE else picture(row) for row in range(ROWS)],
        "text": [None if row in NO_TEXT else f"text {row}" for row in range(ROWS)],
    }


def write_parquet(folder, **options):
    """As img2dataset: failed downloads stay as rows."""
    path = folder / "a.parquet"
    parquet.write_table(pa.table(columns()), path, row_group_size=6, **options)
    return path, open_parquet


def write_without_statistics(folder):
    return write_parquet(folder, write_statistics=False)


def write_structs(folder):
    """As Hugging Face datasets, of which some have an empty image and some none."""
    images = [
        None if row == NO_IMAGE[0] else {"bytes": image, "path": None}
        for row, image in enumerate(columns()["image"])
    ]
    path = folder / "a.parquet"
    parquet.write_table(pa.table({"image": images, "text": columns()["text"]}), path)
    return path, open_parquet


def write_tfrecord(folder):
    """With features that are missing, and features without a value."""
    records = []
    for row, (image, text) in enumerate(zip(*columns().values(), strict=True)):
        features = {"n": row + 1, "image": image, "text": text}
        empty = {} if row % 2 else {"image": [], "text": []}
        records.append(
            fakes.example(**empty | {k: v for k, v in features.items() if v is not None})
        )
    return fakes.write_tfrecord(folder / "a.tfrecord", records), open_tfrecords


def write_json_lines(folder):
    """With fields that are null, and fields that are missing."""
    with open(folder / "a.jsonl", "w") as file:
        for row, (image, text) in enumerate(zip(*columns().values(), strict=True)):
            fields = {"file_name": image and f"{row}.jpg", "text": text, "n": row}
            if row % 2:
                fields = {name: value for name, value in fields.items() if value is not None}
            file.write(f"{json.dumps(fields)}\n")
            (folder / f"{row}.jpg").write_bytes(picture(row))
    return folder / "a.jsonl", open_tables


WRITERS = (
    *(write_parquet, write_without_statistics, write_structs, write_tfrecord),
    write_json_lines,
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_rows_without_image_or_text_are_left_out_and_counted(tmp_path, write, caplog):
    path, make = write(tmp_path)
    source = make(str(path))
    assert (len(source), source.lengths, source.skipped) == (len(KEPT), [len(KEPT)], COUNTED)
    assert f"{len(KEPT)} of {ROWS} samples are usable; 3 rows without image" in caplog.text
    again = pickle.loads(pickle.dumps(make(str(path))))  # noqa: S301 (our own bytes)
    for one in (source, again):
        for number in np.random.default_rng(0).permutation(len(KEPT)):
            row = KEPT[number]
            assert one[number]["image"] == picture(row) and one.caption(number) == f"text {row}"
            assert one.key(number) == one[number]["key"] == f"{path}".rsplit("/")[-1] + f"/{row}"
    windows = order.WindowOrder(source.lengths, window=1, seed=0)
    assert sorted(windows(position) for position in range(len(KEPT))) == list(range(len(KEPT)))


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_an_index_holds_what_is_left_out(tmp_path, write, monkeypatch):
    (tmp_path / "data").mkdir()
    path, make = write(tmp_path / "data")
    source = make(str(path))
    folder = str(tmp_path / "index")
    index.write(source, folder=folder)
    monkeypatch.setattr(type(source.form), "null_finder", unknown(source.form))
    files = ShardFiles(str(tmp_path / "cache"), index=folder)
    other = make(str(path), files=files, survey=sharded.read_survey(folder))
    assert other.fingerprint == source.fingerprint and other.skipped == COUNTED
    assert [other[n] for n in range(len(other))] == [source[n] for n in range(len(source))]


def unknown(form):
    """A finder that may not be called, where there is one."""
    real = type(form).null_finder

    def find(file):
        raise AssertionError("looked for again")

    return lambda self, table: real(self, table) and find


def test_a_choice_of_other_fields_leaves_out_other_rows(tmp_path):
    """Beside one another, so that two runs do not make each other's index again."""
    path, _ = write_parquet(tmp_path)
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("alt", [["alt"] * ROWS]), path)
    sources = {keys: open_parquet(path, text_key=keys) for keys in ("", "alt", "text,alt")}
    assert [source.skipped for source in sources.values()] == [
        COUNTED,
        {"rows without image": 3},
        {"rows without image": 3},
    ]
    lacking = [row for row in range(ROWS) if row not in NO_IMAGE].index(7)
    assert sources["text,alt"].caption(lacking) == {"text": "", "alt": "alt"}
    before = sorted(tmp_path.iterdir())
    assert len([file for file in before if file.name.endswith(".index.npz")]) == 3
    for keys, source in sources.items():
        assert open_parquet(path, text_key=keys).fingerprint == source.fingerprint
    assert sorted(tmp_path.iterdir()) == before


def test_images_known_by_a_path_alone_are_bad_records(tmp_path):
    images = [{"bytes": picture(0), "path": "0.jpg"}, {"bytes": None, "path": "/data/1.jpg"}]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": images, "text": ["a", "b"]}), path)
    source = open_parquet(path)
    assert len(source) == 2 and source[0]["image"] == picture(0)
    with pytest.raises(BadRecord, match=r"^a.parquet/1: no image bytes \(path /data/1.jpg only\)$"):
        source[1]


def test_images_of_other_types_are_told(tmp_path):
    path = tmp_path / "a.parquet"
    for column, told in ((["a.jpg"], "text 'a.jpg'"), ([7], "int"), ([[1, 2]], "list")):
        parquet.write_table(pa.table({"image": column, "text": ["a"]}), path)
        with pytest.raises(BadRecord, match=rf"no image bytes \(column image holds {told}\)$"):
            open_parquet(path)[0]


LISTS = [["a", None], ["", "b"], [None, "c", None], [" ", None, "d", "e"]]


def test_a_list_with_nulls_keeps_its_other_captions(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": [picture(0)] * 4, "text": LISTS}), path)
    (tmp_path / "0.jpg").write_bytes(picture(0))
    rows = [json.dumps({"file_name": "0.jpg", "text": texts}) for texts in LISTS]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    members = [(f"{n}.jpg", picture(0)) for n in range(4)]
    members += [
        (f"{n}.json", json.dumps({"text": texts}).encode()) for n, texts in enumerate(LISTS)
    ]
    shard = open_tars(tars.write(tmp_path / "a.tar", members), text_key="text")
    for source in (open_parquet(path), open_tables(tmp_path / "a.jsonl"), shard):
        assert source.skipped == {}
        assert [source.caption(n) for n in range(4)] == [
            *(["a"], ["", "b"], ["c"], [" ", "d", "e"]),
        ]


def test_weights_belong_to_fields_that_a_record_lacks(tmp_path):
    """All the fields asked for stand in every record, in their order."""
    (tmp_path / "0.jpg").write_bytes(picture(0))
    (tmp_path / "a.jsonl").write_text(
        '{"path": "0.jpg", "c": "three"}\n{"path": "0.jpg", "a": "1"}'
    )
    source = open_tables(tmp_path / "a.jsonl", text_key="a,b,c")
    assert source.caption(0) == {"a": "", "b": "", "c": "three"}
    records = [fakes.example(image=b"i", c="three")]
    source = open_tfrecords(fakes.write_tfrecord(tmp_path / "a.tfrecord", records), text_key="a,c")
    assert source.caption(0) == {"a": "", "c": "three"}


SOUND = {  # as clipjax 0.1 numbered them: runs that began with it go on
    "a.csv": ('filepath,title\n0.jpg,"two\nlines"\n\n1.jpg,é\n', "0e121d8f5fa88099", 4290355421),
    "a.tsv": ("filepath\ttitle\r\n0.jpg\ta fox\r\n1.jpg\ta dog\r\n", "f5ae8c9d0a2c7c03", 725909264),
    "a.jsonl": (
        '{"file_name": "0.jpg", "text": "a"}\n\n{"file_name": "1.jpg", "text": ["b", "c"]}\n',
        *("e055a9b21d63de8c", 3822143611),
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_data_keep_their_fingerprints(tmp_path, name):
    text, fingerprint, digest = SOUND[name]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(text.encode())
    source = open_tables(tmp_path / "set" / name)
    assert source.fingerprint.startswith(fingerprint)
    assert source.survey_of()["shards"][0][-1] == digest


def test_sound_tfrecords_keep_their_fingerprint(tmp_path):
    (tmp_path / "set").mkdir()
    records = [fakes.example(jpg=b"image", txt=f"text {i}", n=i + 1) for i in range(3)]
    source = open_tfrecords(fakes.write_tfrecord(tmp_path / "set" / "a.tfrecord", records))
    assert source.fingerprint.startswith("9c43d2b3c99733ef")
    assert source.survey_of()["shards"][0][-1] == 2366471479


def test_nothing_but_nulls_names_the_fields_there_are(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": pa.nulls(3, pa.binary()), "text": ["a"] * 3}), path)
    with pytest.raises(DataError, match=r"0 of the first 3 records have both .* keys seen: image"):
        open_parquet(path)
    (tmp_path / "a.jsonl").write_text('{"file": null, "text": "a", "n": 1}\n' * 3)
    with pytest.raises(DataError, match=r"0 of the first 3 records .* keys seen: text, n; set"):
        open_tables(tmp_path / "a.jsonl")


def test_features_are_looked_for_without_reading_images(tmp_path):
    record = fakes.example(a="x", image=b"i" * 3_000_000, n=7, text=["t", "u"], none=[])
    path = fakes.write_tfrecord(tmp_path / "a.tfrecord", [b"", record])
    file = tfrecord.OpenFile(path)
    table = tfrecord.load_table(path, files=ShardFiles(str(tmp_path / "cache")))
    taken = []

    def read(at, count):
        taken.append(count)
        return file.read(count, offset=at)

    where = {"offset": int(table.offsets[1]), "size": int(table.sizes[1])}
    assert tf_example.filled(read, **where) == ["a", "image", "text"]
    assert sum(taken) < 20_000
    names = {name for name, values in tf_example.decode(record).items() if values}
    assert names == {"a", "image", "text"}


def test_damaged_examples_lack_nothing_and_do_not_hang(tmp_path):
    """They are bad records in their turn; of all others `decode` and `filled` find the same."""
    whole = fakes.example(image=b"i" * 50, text=["t", "u"], n=300, none=[])
    rng = np.random.default_rng(0)
    agreed = 0
    for _ in range(2000):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=2):
            data[place] = rng.integers(256)
        data = bytes(data[: rng.integers(len(data) + 1)] if rng.integers(2) else data)
        try:
            expected = [name for name, values in tf_example.decode(data).items() if values]
        except BadRecord:
            continue
        try:
            names = tf_example.filled(lambda at, n: data[at : at + n], offset=0, size=len(data))  # noqa: B023
        except BadRecord:
            continue
        agreed += 1
        assert sorted(set(names)) == sorted(set(expected)), data
    assert agreed > 300


def test_a_row_group_that_cannot_be_read_lacks_nothing(tmp_path):
    """Its rows are bad records in their turn, and not left out."""
    path, make = write_parquet(tmp_path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = data.index(picture(8))
    end = data.index(b"text 6")  # headers of pages and all
    data[place - 60 : end] = bytes(end - place + 60)
    path.write_bytes(data)
    source = make(path)
    outcomes = {}
    for number in range(len(source)):
        try:
            outcomes[source.key(number)] = source[number]["image"] == picture(
                int(source.key(number).rsplit("/")[-1])
            )
        except BadRecord as error:
            outcomes[source.key(number)] = error.reason
    assert set(outcomes.values()) == {True, "row group cannot be read"}
    assert len(outcomes) > len(KEPT)
