"""TensorFlow Datasets: sets really prepared as array_record, mocked ones, and every refusal."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import captions, eval_batches, examples, loader
from clipjax.data.sources import shared_records
from clipjax.data.sources.tfds import TfdsSource
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from tests.data import fakes

tfds = pytest.importorskip("tensorflow_datasets")
from array_record.python import array_record_module  # noqa: E402
from tensorflow_datasets.core import registered  # noqa: E402

features = tfds.features
CAPTIONED = {
    "image": features.Image(encoding_format="jpeg"),
    "image/filename": features.Text(),
    "caption": features.Text(),
    "sentences": features.Sequence(features.Text()),
    "objects": features.Sequence({"label": features.ClassLabel(num_classes=3), "id": np.int64}),
    "captions": features.Sequence({"text": features.Text(), "id": np.int64}),
    "label": features.ClassLabel(names=["red_fox", "owl"]),
}
EXAMPLES = 30
SLICES = ("train[:20]", "train[15:]")


def value(name, index):
    return {
        "image": io.BytesIO(picture(index)),
        "mask": io.BytesIO(picture(index)),
        "image/filename": f"{index}.jpg",
        "caption": f"a café {index}",
        "question": f"what is {index}?",
        "sentences": [f"s{index} {n}" for n in range(index % 3 + 1)],
        "objects": [{"label": 1, "id": 3}],
        "captions": [{"text": f"n{index}", "id": 1}, {"text": f"m{index}", "id": 2}],
        "label": index % 2,
    }[name]


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def prepare(folder, name, spec, *, config=None):
    """Prepare a data set of `spec`'s features as array_record; returns its folder."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(spec))

    def split_generators(self, dl_manager):
        del dl_manager
        return {"train": rows(EXAMPLES), "test": rows(4)}

    def rows(number):
        return ((i, {key: value(key, i) for key in spec}) for i in range(number))

    with registered.skip_registration():
        builder_class = type(
            name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version("1.0.0"),
                "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
                "__module__": "a_notebook",  # of a package TFDS would look for more files
                "_info": info,
                "_split_generators": split_generators,
                "_generate_examples": lambda self: None,
            },
        )
    builder = builder_class(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "Captioned", CAPTIONED)
    prepare(folder, "Labelled", {k: CAPTIONED[k] for k in ("image", "image/filename", "label")})
    prepare(folder, "Wordless", {k: CAPTIONED[k] for k in ("image", "image/filename")})
    prepare(folder, "Pictureless", {"caption": features.Text()})
    spec = {"image": CAPTIONED["image"], "mask": CAPTIONED["image"], "question": features.Text()}
    prepare(folder, "Masked", spec)
    return folder


def by_image(source):
    """Index in the generator (which TFDS shuffles) of each record, found by its image."""
    known = {picture(i): i for i in range(EXAMPLES)}
    return [known[source[position]["image"]] for position in range(len(source))]


@pytest.mark.parametrize(
    ("text_key", "expected"),
    [
        ("", lambda i: [f"n{i}", f"m{i}"]),
        ("captions", lambda i: [f"n{i}", f"m{i}"]),
        ("captions/text", lambda i: [f"n{i}", f"m{i}"]),
        ("caption", lambda i: f"a café {i}"),
        ("sentences", lambda i: [f"s{i} {n}" for n in range(i % 3 + 1)]),
        ("image/filename", lambda i: f"{i}.jpg"),
        ("label", lambda i: ["red fox", "owl"][i % 2]),
    ],
)
def test_every_kind_of_text(data_dir, text_key, expected):
    source = TfdsSource("captioned", split="train", data_dir=data_dir, text_key=text_key)
    assert source.name == "captioned" and len(source) == EXAMPLES
    indices = by_image(source)
    assert sorted(indices) == list(range(EXAMPLES))
    for position, index in enumerate(indices):
        record = source[position]
        assert record["text"] == source.caption(position) == expected(index)
        assert record.get("label") == (record["text"] if text_key == "label" else None)


def test_a_label_serves_where_there_is_no_caption(data_dir):
    source = TfdsSource("labelled", split="test", data_dir=data_dir)
    assert {source[i]["text"] for i in range(4)} == {"red fox", "owl"}
    assert source[0]["label"] == source[0]["text"]
    assert source.labels == ("red fox", "owl")


def test_slices_keep_keys_and_change_the_fingerprint(data_dir):
    whole = TfdsSource("captioned", split="train", data_dir=data_dir)
    part = TfdsSource("captioned", split="train[10%:50%]", data_dir=data_dir)
    both = TfdsSource("captioned", split="train[:10]+test", data_dir=data_dir)
    assert len(part) == 12 and len(both) == 14
    assert [part[i]["key"] for i in range(12)] == [whole[i]["key"] for i in range(3, 15)]
    assert whole[4]["key"] == "captioned-train.array_record-00000-of-00001/4"
    assert both[11]["key"] == "captioned-test.array_record-00000-of-00001/1"
    again = TfdsSource("captioned", split="train", data_dir=data_dir)
    other = TfdsSource("captioned", split="train", data_dir=data_dir, text_key="caption")
    assert whole.fingerprint == again.fingerprint
    assert len({s.fingerprint for s in (whole, part, both, other)}) == 4


def test_the_folder_of_a_version_and_a_named_version_will_do(data_dir):
    direct = TfdsSource(split="test", data_dir=data_dir / "captioned" / "1.0.0")
    named = TfdsSource("captioned:1.0.0", split="test", data_dir=str(data_dir))
    assert direct[2] == named[2] and direct.fingerprint == named.fingerprint


def test_a_folder_of_another_data_set_than_the_named_one(data_dir):
    version = data_dir / "captioned" / "1.0.0"
    assert len(TfdsSource("captioned:1.0.0", data_dir=version)) == EXAMPLES
    for name in ("labelled", "captioned:2.0.0"):
        with pytest.raises(ConfigError, match=f"'{name}' is not what .*, captioned/1.0.0; leave"):
            TfdsSource(name, data_dir=version)


def test_slices_share_what_both_have(data_dir):
    part, rest = (TfdsSource("captioned", split=s, data_dir=data_dir) for s in SLICES)
    whole, test = (TfdsSource("captioned", split=s, data_dir=data_dir) for s in ("train", "test"))
    assert shared_records.count(part, whole) == len(part) == 20
    assert shared_records.count(rest, part) == 5 and shared_records.count(test, whole) == 0


def test_pickles_for_workers(data_dir):
    source = TfdsSource("captioned", split="test", data_dir=data_dir, text_key="caption")
    source[0]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert copy[3] == source[3] and copy.fingerprint == source.fingerprint


def test_trains_and_evaluates_from_array_record_in_workers(data_dir):
    source = TfdsSource("captioned", split="train", data_dir=data_dir)
    model = sentencepiece_tokenizer.train_sentencepiece(
        captions.sample(source, limit=100), vocab_size=275
    )
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(model, context_length=8)
    stream = examples.TrainExamples(source, tokenizer=tokenizer, image_size=16, seed=0)
    results = []
    for num_workers in (0, 1):
        batches = loader.train_batches(stream, start=3, batch_size=8, num_workers=num_workers)
        results.append([np.array(next(batches)[0]["image"]) for _ in range(5)])
        batches.close()
    np.testing.assert_array_equal(*results)
    assert len(list(eval_batches.eval_image_batches(source, size=16, batch_size=8))) == 4


def test_no_tensorflow_is_imported(data_dir):
    code = (
        "import sys; from clipjax.data.sources.tfds import TfdsSource;"
        f" TfdsSource('captioned', split='test', data_dir={str(data_dir)!r})[0];"
        " assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def refused(error, pattern, *arguments, **options):
    with pytest.raises(error, match=pattern) as caught:
        TfdsSource(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_things_get_the_closest_name(data_dir):
    refused(
        ConfigError,
        r'no split .*"train".*splits: train, test',
        "captioned",
        split="trian",
        data_dir=data_dir,
    )
    refused(
        ConfigError,
        r"text_key: 'capton' .*\"caption\".*image \(Image\)",
        "captioned",
        data_dir=data_dir,
        text_key="capton",
    )
    refused(
        ConfigError, "image_key: 'caption'", "captioned", data_dir=data_dir, image_key="caption"
    )
    refused(ConfigError, r'data.name: TFDS has no data set .*"mnist"', "mnits", data_dir=data_dir)
    refused(ConfigError, "data.name: not set", data_dir=data_dir)
    refused(ConfigError, "data.name: '/some/path' names no one", "/some/path", data_dir=data_dir)


def test_sets_without_text_or_image(data_dir):
    refused(
        DataError,
        r"wordless has no text feature; features seen: .*image/filename \(Text\)",
        "wordless",
        data_dir=data_dir,
    )
    named = TfdsSource("wordless", split="test", data_dir=data_dir, text_key="image/filename")
    assert named[0]["text"].endswith(".jpg")
    refused(DataError, "pictureless has no image feature", "pictureless", data_dir=data_dir)


def test_several_images(data_dir):
    options = {"split": "test", "data_dir": data_dir, "text_key": "question"}
    assert TfdsSource("masked", **options)[0]["image"]
    named = TfdsSource("masked", image_key="mask", **options)
    assert named[0]["image"][:2] == b"\xff\xd8"


def test_empty_splits(data_dir):
    refused(
        DataError,
        r"0 records in split 'train\[:0\]'",
        "captioned",
        split="train[:0]",
        data_dir=data_dir,
    )


def test_not_prepared_says_how(tmp_path):
    message = refused(DataError, "mnist is not prepared", "mnist", data_dir=tmp_path)
    command = message.split("run: ")[1]
    assert f"data_dir='{tmp_path}', file_format='array_record').download_and_prepare()" in command
    compile(command.removeprefix('python -c "').removesuffix('"'), "command", "exec")


@pytest.mark.skipif(
    bool(__import__("importlib.util").util.find_spec("tensorflow")), reason="has it"
)
def test_builders_that_need_tensorflow_are_named(tmp_path):
    message = refused(DataError, "coco_captions .*tensorflow", "coco_captions", data_dir=tmp_path)
    assert "file_format='array_record'" in message


def test_prepared_sets_need_no_builder_code(tmp_path):
    """The set that needs TensorFlow to be built reads without, once it is prepared."""
    prepare(tmp_path, "CocoCaptions", CAPTIONED, config="2014")
    assert len(TfdsSource("coco_captions", split="test", data_dir=tmp_path)) == 4


def as_tfrecord(folder):
    """Turn a data set prepared as array_record into one prepared as TFRecord."""
    for file in folder.iterdir():
        if "array_record" in file.name:
            reader = array_record_module.ArrayRecordReader(str(file))
            records = reader.read([*range(reader.num_records())])
            fakes.write_tfrecord(folder / file.name.replace("array_record", "tfrecord"), records)
            file.unlink()
        else:
            file.write_bytes(file.read_bytes().replace(b"array_record", b"tfrecord"))


def test_tfrecord_is_read_too(tmp_path):
    folder = prepare(tmp_path, "Captioned", CAPTIONED)
    before = TfdsSource("captioned", data_dir=tmp_path)
    expected = [before[i] for i in range(len(before))]
    as_tfrecord(folder)
    source = TfdsSource("captioned", data_dir=tmp_path)
    found = [source[i] for i in range(len(source))]
    strip = [{**r, "key": r["key"].replace("tfrecord", "array_record")} for r in found]
    assert strip == expected
    half = TfdsSource("captioned", split="train[50%:]", data_dir=tmp_path)
    assert [half[i] for i in range(len(half))] == found[len(found) // 2 :]
    both = TfdsSource("captioned", data_dir=tmp_path, text_key="caption,captions")
    assert set(both.caption(0)) == {"caption", "captions"}
    (file,) = folder.glob("*train*.tfrecord*[!z]")
    file.write_bytes(file.read_bytes()[:-20])
    refused(DataError, "cut short", "captioned", data_dir=tmp_path)


def test_other_formats_say_how_to_prepare(tmp_path):
    recorded = "parquet"
    folder = prepare(tmp_path, "Captioned", CAPTIONED)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"array_record", recorded.encode()))
        file.rename(folder / file.name.replace("array_record", recorded))
    message = refused(DataError, f"prepared as {recorded}", "captioned", data_dir=tmp_path)
    other = f"{tmp_path}_array_record"
    assert f"set config.data.path to {other} and run: python -c" in message
    assert f"data_dir='{other}', file_format='array_record'" in message


def test_missing_files_are_named(tmp_path):
    folder = prepare(tmp_path, "Captioned", CAPTIONED)
    (file,) = folder.glob("*train*")
    file.unlink()
    refused(
        DataError, f"1 of 1 files .*missing, first .*{file.name}", "captioned", data_dir=tmp_path
    )
    assert len(TfdsSource("captioned", split="test", data_dir=tmp_path)) == 4


def test_records_with_failed_checksums_are_bad_records(tmp_path):
    folder = prepare(tmp_path, "Captioned", CAPTIONED)
    (file,) = folder.glob("*train*")
    data = bytearray(file.read_bytes())
    place = data.index(b"a caf\xc3\xa9")
    data[place] ^= 0xFF
    file.write_bytes(data)
    source = TfdsSource("captioned", split="train", data_dir=tmp_path, text_key="caption")
    stream = examples.TrainExamples(source, tokenizer=fakes.FakeTokenizer(), image_size=16, seed=0)
    bad = [row for row in map(stream.__getitem__, range(EXAMPLES)) if row["bad"]]
    assert len(bad) == 1 and bad[0]["bad"] == "unreadable record"
    assert bad[0]["bad_key"].startswith(f"{file.name}/")


def test_a_length_that_is_not_the_metadata_s_is_refused(data_dir, monkeypatch):
    def short(self, *arguments, **options):
        return [{}] * 17

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", short)
    refused(DataError, r"17 records .*metadata say 30", "captioned", data_dir=data_dir)


class MockedRecords:
    """What `mock_data` serves for oxford_flowers102: encoded images and labels."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": picture(index), "label": index, "file_name": b"x"}


def test_mocked_data_sets():
    asked = {}

    def as_data_source(self, *arguments, **options):
        asked.update(options)
        return MockedRecords()

    with tfds.testing.mock_data(as_data_source_fn=as_data_source):
        source = TfdsSource("oxford_flowers102", split="train")
        assert len(source) == 5
        assert source[1]["text"] == source[1]["label"] == "hard-leaved pocket orchid"
        assert source[1]["key"] == "train/1"
        stream = examples.TrainExamples(
            source, tokenizer=fakes.FakeTokenizer(), image_size=16, seed=0
        )
        batches = loader.train_batches(stream, start=0, batch_size=4)
        batch, info = next(batches)
        batches.close()
        assert batch["image"].shape == (4, 16, 16, 3) and not (info["bad"] != "").any()
    assert asked["split"] == "train"
    assert isinstance(asked["decoders"]["image"], type(tfds.decode.SkipDecoding()))


def test_mocked_empty_data_set():
    with tfds.testing.mock_data(as_data_source_fn=lambda *a, **k: []):
        refused(DataError, "0 records", "oxford_flowers102", split="train")
