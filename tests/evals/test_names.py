"""Names of classes and templates as people write them: any script, sign and line end."""

import itertools
import json
import types
import unicodedata

import numpy as np
import pytest

from clipjax.common.exits import CleanExit, ConfigError, DataError
from clipjax.data import captions
from clipjax.data.source import Source
from clipjax.data.sources.table import LabelledTable
from clipjax.data.sources.webdataset_folder import WebDatasetFolder
from clipjax.evals import class_names, prompts, suites
from tests.data import tars, webdatasets

WHERE = "prompts of x"
SCRIPTS = {
    "Chinese": ("猫", "犬", "狐"),
    "Cyrillic": ("кошка", "собака", "лиса"),
    "Arabic": ("قطة", "كلب", "ثعلب"),
    "Hindi": ("बिल्ली", "कुत्ता", "कुत्ते"),
    "Thai": ("แมว", "หมา", "หมู"),
    "Greek": ("γάτα", "σκύλος", "αλεπού"),
    "signs": ("C", "C++", "C#", "C--"),
    "numbers with signs": ("1", "-1", "+1", "1.0", "10"),
    "case": ("apple", "Apple", "APPLE"),
    "accents": ("pêche", "pèche", "peche", "péché"),
    "emoji": ("🐈", "🐕", "🦊"),
    "punctuation": ("rock 'n' roll", "rock n roll", "rock-n-roll"),
    "spaces": ("hot dog", "hotdog", "hot_dog"),
    "one that is another's letters": ("a-b", "ab", "A B"),
}


def read(folder, keys):
    table = class_names.read(str(folder), keys=keys, where=WHERE)
    return prompts.make(keys, table=table, where=WHERE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_label_keys_of_any_kind_are_their_own_names(tmp_path, script):
    keys = SCRIPTS[script]
    for order in itertools.islice(itertools.permutations(keys), 24):
        (tmp_path / "classnames.txt").write_text("\n".join(order), encoding="utf-8")
        assert [names for (names,) in read(tmp_path, keys).names] == list(keys)


@pytest.mark.parametrize(
    ("names", "keys", "found"),
    [
        (["American Bulldog"], ["american_bulldog"], {"american_bulldog": "American Bulldog"}),
        (["saint bernard", "pug"], ["Saint-Bernard"], {"Saint-Bernard": "saint bernard"}),
        ([unicodedata.normalize("NFD", "pêche")], ["pêche"], {"pêche": "pe\u0302che"}),
        (["C", "c++"], ["C", "C++"], {"C": "C", "C++": "c++"}),
        (["hot-dog", "hot dog"], ["hotdog"], {}),  # which one?
        (["hotdog"], ["hot-dog", "hot dog"], {}),
        (["hot-dog", "hotdog"], ["hotdog", "hot_dog"], {"hotdog": "hotdog", "hot_dog": "hot-dog"}),
        (["a", "a"], ["a"], {}),
        (["", "!"], ["?"], {}),
        ([], ["a"], {}),
    ],
)
def test_names_find_their_keys_in_the_closest_form_that_is_unique(names, keys, found):
    assert class_names.joined(names, keys=keys) == found


LINES = ["猫 и a", "red  fox", "ox"]
DIRTY = {
    "Windows": "\ufeff" + "\r\n".join(LINES) + "\r\n",
    "old Macs": "\r".join(LINES),
    "empty lines": "\n\n" + "\n\n".join(LINES) + "\n \n\t\n",
    "stray spaces": "\n".join(f"  {line}\t " for line in LINES),
    "wide spaces": "\n".join(f"\u3000{line}\u00a0" for line in LINES),
    "marks of joined files": "\ufeff" + "\n\ufeff".join(LINES),
    "zero-width spaces": "\n".join(f"{line}\u200b" for line in LINES),
}
CLEAN = ("猫 и a", "red fox", "ox")


@pytest.mark.parametrize("kind", DIRTY)
def test_nothing_but_the_name_becomes_part_of_a_prompt(tmp_path, kind):
    content = DIRTY[kind].encode()
    templates = DIRTY[kind].replace("ox", "{c} ox").replace("猫", "{c}").encode()
    samples = [{"jpg": tars.picture(i), "cls": b"%d\r\n" % i} for i in range(3)]
    folder = webdatasets.write(tmp_path / "set", samples)
    (folder / "classnames.txt").write_bytes(content)
    (folder / "zeroshot_classification_templates.txt").write_bytes(templates)
    source = WebDatasetFolder(folder)
    assert source.class_names == CLEAN
    assert source.templates == ("{} и a", "red f{} ox", "{} ox")
    (tmp_path / "classnames.txt").write_bytes(content)
    (tmp_path / "templates.txt").write_bytes(templates)
    made = read(tmp_path, ("0", "1", "2"))
    assert [names for (names,) in made.names] == list(CLEAN)
    assert made.templates == source.templates
    in_json = {
        "names": {str(i): line for i, line in enumerate(DIRTY[kind].split("\n")) if line.strip()},
        "templates": ["  a\r\n{c}\u200b. "],
    }
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(in_json).encode())
    table = prompts.read(str(tmp_path / "x.json"), where=WHERE)
    texts = (
        prompts.make(tuple(table.names), table=table, where=WHERE).texts()[0]
        if len(table.names) > 1
        else [table.templates[0]]
    )
    assert all(not set(text) & set("\ufeff\u200b\r\n\t\u3000\u00a0") for text in texts)
    assert table.templates == ("a {}.",)


def test_a_table_of_keys_and_names_is_cleaned_cell_by_cell(tmp_path):
    text = "\ufeffn1\t dog \thound\r\n\r\nn2 \tcat\t\r\n"
    (tmp_path / "classnames.txt").write_bytes(text.encode())
    assert read(tmp_path, ("n1", "n2")).names == (("dog", "hound"), ("cat",))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"n1\tdog\nn2\t\n", "has no name for 'n2'"),
        (b"n1\tdog\nn1\tcat\n", "names 'n1' twice"),
        (b"n1\nn1\nn2\n", "names 'n1' twice"),
        ("n1\nn\u00e9\n".encode("latin-1"), r"is not UTF-8 .* at byte 4"),
        ("n1\nn2\n".encode("utf-16"), "is not UTF-8"),
        (b"", r"without names: 2 \('n1', 'n2'\)"),
        (b"n1\nn3\n", r"without names: 1 \('n2'\), not in the data: 1 \('n3'\)"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(tmp_path, content, told):
    (tmp_path / "classnames.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        read(tmp_path, ("n1", "n2"))
    assert "\n" not in str(caught.value)


TABLES = [
    '{"names": {"a": "x", "a": "y"}}',
    '{"names": {"a": ["x", "x", 3]}}',
    '{"names": {"a": {"b": "c"}}}',
    '{"names": {"a": null}}',
    '{"names": {"a": " "}}',
    '{"names": {"a": ["x", ""]}}',
    '{"names": ["x", "y"]}',
    '{"names": "x"}',
    '{"names": {"a": "x"}, "templates": 3}',
    '{"names": {"a": "x"}, "templates": null}',
    '{"names": {"a": "x"}, "templates": [3]}',
    '{"names": {"a": "x"}, "templates": {"a": 1}}',
    '{"names": {"a": true}}',
    '{"classes": {}}',
    '["names"]',
    '"names"',
    "null",
    '{"names": {"a": "x"}',
]


@pytest.mark.parametrize("content", TABLES)
def test_tables_of_wrong_types_are_one_line(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError, match=r'x: write {"names"') as caught:
        prompts.read(str(tmp_path / "x.json"), where="x")
    assert "\n" not in str(caught.value)


def test_tables_in_json_take_one_for_many(tmp_path):
    content = {"names": {"a": "x", "b": ["y", "z"]}, "templates": "a photo of {c}"}
    (tmp_path / "x.json").write_text(json.dumps(content))
    table = prompts.read(str(tmp_path / "x.json"), where="x")
    assert table == prompts.Table({"a": ("x",), "b": ("y", "z")}, ("a photo of {}",))


@pytest.mark.parametrize(
    "template",
    ["a photo", "{} {}", "{c} {c}", "{} {c}", "{:s}", "{0}", "{c!r}", "{c:>9}", "{{}}", "{", "{c"],
)
def test_templates_of_a_folder_have_one_place(tmp_path, template):
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % i} for i in range(2)]
    folder = webdatasets.write(tmp_path / "x", samples, names=("a", "b"), templates=(template,))
    entry = suites.own("x", path=folder)
    source = WebDatasetFolder(folder)
    with pytest.raises(ConfigError, match="is no template"):
        class_names.of_set(entry, source=source, keys=source.labels)


@pytest.mark.parametrize("data", [b"1", b" 1\n", b"1.0", b"1.0\r\n", b"01"])
def test_classes_in_tars_are_whole_numbers_however_written(tmp_path, data):
    samples = [{"jpg": tars.picture(0), "cls": data}]
    source = WebDatasetFolder(webdatasets.write(tmp_path / "x", samples, shards=1))
    assert source.label(0) == "1"


@pytest.mark.parametrize("data", [b"1.5", b"nan", b"", b"1 2", b"one", b"\xff", b"1e3"])
def test_classes_in_tars_that_are_none_are_named(tmp_path, data):
    samples = [{"jpg": tars.picture(0), "cls": data}]
    with pytest.raises(DataError, match=r"0.tar/s0000000: its \.cls is .*, no number"):
        WebDatasetFolder(webdatasets.write(tmp_path / "x", samples, shards=1)).label(0)


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        (["0.0", "1.0", "0.0"], ["0", "1", "0"]),
        (["0", "1.0", "2"], ["0", "1", "2"]),
        (["-1.0", "1.0", "0.0"], ["-1", "1", "0"]),
        (["0.5", "1.0", "0.0"], ["0.5", "1.0", "0.0"]),  # sizes, or what else they may be
        (["v1.0", "v2.0", "v1.0"], ["v1.0", "v2.0", "v1.0"]),
        (["007", "1", "2"], ["007", "1", "2"]),
        ([" cat", "cat ", "dog"], ["cat", "cat", "dog"]),
        (["猫", "C++", "C#"], ["猫", "C++", "C#"]),
    ],
)
def test_classes_in_tables_are_what_was_meant(tmp_path, written, keys):
    rows = [f"{i}.jpg,{label}" for i, label in enumerate(written)]
    (tmp_path / "x.csv").write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    source = LabelledTable(tmp_path / "x.csv")
    assert [source.label(i) for i in range(3)] == keys
    assert source.labels == tuple(sorted(set(keys)))


@pytest.mark.parametrize("value", [1.0, 1, True, "1"])
def test_classes_in_json_lines_may_be_numbers(tmp_path, value):
    rows = [{"image": "0.jpg", "label": value}, {"image": "1.jpg", "label": value}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert LabelledTable(tmp_path / "x.jsonl").label(0) in ("1", "True")


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, float("nan")])
def test_classes_in_json_lines_that_are_none_are_named(tmp_path, value):
    rows = [{"image": "0.jpg", "label": "a"}, {"image": "1.jpg", "label": value}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"row 1 has the class .*, no text and no number"):
        LabelledTable(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("1.jpg,a,b", r"wrong number of fields \(line 3: 3 where the head has 2\)"),
        ("1.jpg", r"wrong number of fields \(line 3: 1 where the head has 2\)"),
        ('1.jpg,"a', r"broken quotes \(line 3: a quote is never closed\)"),
        ("1.jpg,caf\xe9", r"no UTF-8 \(line 3: byte 0xe9; save the table as UTF-8\)"),
    ],
)
def test_a_broken_row_of_a_set_is_named_with_its_line(tmp_path, row, told):
    (tmp_path / "x.csv").write_bytes(
        f"image,caption\n0.jpg,a\u2028b\n{row}\n".encode("latin-1", "ignore")
    )
    with pytest.raises(DataError, match=rf"x.csv: {told}; repair it$"):
        LabelledTable(tmp_path / "x.csv")


def test_captions_of_a_set_are_what_its_table_says(tmp_path):
    (tmp_path / "x.tsv").write_text('image\tcaption\n0.jpg\t"a\u2028b" c\n', encoding="utf-8")
    assert LabelledTable(tmp_path / "x.tsv").caption(0) == ['"a\u2028b" c']
    (tmp_path / "x.jsonl").write_text('{"image": "0.jpg", "caption": ["a", null, "b"]}')
    assert LabelledTable(tmp_path / "x.jsonl").caption(0) == ["a", "b"]


@pytest.mark.parametrize("keys", [("0", "1"), ("-1", "1"), ("0.5", "1.5")])
def test_numbers_are_no_words(keys):
    source = Source()
    source.name, source.labels = "mine", keys
    with pytest.raises(ConfigError, match="are no words"):
        class_names.of_set(suites.own("x", path="d"), source=source, keys=keys)


def test_read_alike_is_what_the_tokens_say():
    def encode(texts):
        rows = [np.frombuffer(text.lower().ljust(12).encode()[:12], np.uint8) for text in texts]
        return np.stack(rows), np.zeros(len(texts), bool)

    reads = types.SimpleNamespace(encode=encode)
    names = (("Crane",), ("crane",), ("heron", "bird"), ("bird", "heron"), ("bird",), ("ox",))
    asked = prompts.Prompts(tuple("012345"), names, ("{}", "a {}"))
    assert prompts.read_alike(asked, tokenizer=reads) == [(0, 1), (2, 3)]


def test_a_text_file_is_read_alike_on_every_machine(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes("\ufeffa\u2028b\n\x85".encode() + b"\r\nc")
    assert captions.lines(tmp_path / "x") == ["a\u2028b", "c"]
    (tmp_path / "y").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(CleanExit, match="y: is not UTF-8"):
        captions.lines(tmp_path / "y")


@pytest.mark.parametrize("what", ["keys", "template", "name"])
def test_a_fault_of_the_users_names_says_in_which_file_it_is(tmp_path, what):
    file = tmp_path / "names.json"
    names = {"n1": "" if what == "name" else "dog", "n3" if what == "keys" else "n2": "cat"}
    templates = ["a photo" if what == "template" else "a {}."]
    file.write_text(json.dumps({"names": names, "templates": templates}))
    entry = suites.own("pets", path="DIR", prompts=file)
    with pytest.raises(ConfigError, match=r"^prompts of pets \(.*names\.json\): ") as caught:
        class_names.of_set(entry, source=Source(), keys=("n1", "n2"))
    assert ".classes" not in str(caught.value)
